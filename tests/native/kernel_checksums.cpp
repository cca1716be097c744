// Runs every kernel on fixed inputs, without Python, and prints a checksum of each result, so that instruction sets and
// processors can be compared line by line.
//
//     kernel_checksums        names of the instruction sets that this machine has
//     kernel_checksums SET    one line for each case: its name and the checksum of its results' bits
//
// Inputs are made of integers alone, so that they are the same everywhere. All NaN count as one: processors differ in which
// of them an operation gives, and headrace promises none.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string>
#include <thread>

#include "backend.h"
#include "float_mode.h"
#include "lookup.h"

using namespace headrace;

namespace {

// splitmix64
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t next() {
        uint64_t z = state_ += 0x9E3779B97F4A7C15;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }
    size_t below(size_t limit) { return static_cast<size_t>(next() % limit); }
    // Near enough to normal: the sum of four uniform values.
    float normal() {
        int32_t total = 0;
        for (int i = 0; i < 4; ++i) total += static_cast<int32_t>(next() >> 44) - (1 << 19);
        return static_cast<float>(total) * 0x1p-20f;
    }

private:
    uint64_t state_;
};

std::vector<float> normals(uint64_t seed, size_t count) {
    Random random(seed);
    std::vector<float> values(count);
    for (float& value : values) value = random.normal();
    return values;
}

// With outliers, zeros of both signs and subnormals among them, as activations may have them.
std::vector<float> rough(uint64_t seed, size_t count) {
    Random random(seed);
    std::vector<float> values = normals(seed + 1, count);
    const float rare[] = {1000.0f, -3000.0f, 0.0f, -0.0f, 1e-40f, -1e-42f, 65519.0f, 1e-37f};
    for (float& value : values)
        if (random.below(16) == 0) value = rare[random.below(8)];
    return values;
}

std::vector<float> any_bits(uint64_t seed, size_t count) {
    Random random(seed);
    std::vector<float> values(count);
    for (float& value : values) {
        const uint32_t bits = static_cast<uint32_t>(random.next());
        std::memcpy(&value, &bits, 4);
    }
    return values;
}

// FNV-1a of bytes.
uint64_t checksum(const void* data, size_t bytes, uint64_t so_far = 0xCBF29CE484222325) {
    for (size_t i = 0; i < bytes; ++i)
        so_far = (so_far ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001B3;
    return so_far;
}

void print(const std::string& name, uint64_t sum) { std::printf("%s %016llx\n", name.c_str(), static_cast<unsigned long long>(sum)); }

void print(const std::string& name, std::vector<float> values) {
    for (float& value : values)
        if (std::isnan(value)) value = std::numeric_limits<float>::quiet_NaN();
    print(name, checksum(values.data(), values.size() * sizeof(float)));
}

template <class... Numbers>
std::string named(std::string name, Numbers... numbers) {
    ((name += " " + std::to_string(numbers)), ...);
    return name;
}

// Random blocks whose scales keep the values finite.
std::vector<uint8_t> encoded(const Codec& codec, size_t rows, size_t columns, uint64_t seed) {
    Random random(seed);
    std::vector<uint8_t> data(rows * codec.row_bytes(columns));
    if (codec.id == CodecId::F32) {
        const std::vector<float> values = rough(seed, rows * columns);
        std::memcpy(data.data(), values.data(), data.size());
        return data;
    }
    const auto put_half = [&](uint8_t* at) {
        const uint64_t r = random.next();
        const uint16_t half = static_cast<uint16_t>((r & 0x83FF) | (r >> 20) % 17 << 10);  // up to 4; subnormals too
        std::memcpy(at, &half, 2);
    };
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random.next());
    for (size_t at = 0; at < data.size(); at += codec.block_bytes) {
        uint8_t* block = data.data() + at;
        switch (codec.id) {
            case CodecId::BF16: block[1] = static_cast<uint8_t>((block[1] & 0x80) | (0x38 + block[1] % 8)); break;
            case CodecId::Q2_K: put_half(block + 80), put_half(block + 82); break;
            case CodecId::Q3_K: put_half(block + 108); break;
            case CodecId::Q6_K: put_half(block + 208); break;
            case CodecId::MXFP4: block[0] = static_cast<uint8_t>(100 + block[0] % 40); break;
            case CodecId::Q4_1: case CodecId::Q5_1: case CodecId::Q4_K: case CodecId::Q5_K: put_half(block + 2); [[fallthrough]];
            default: put_half(block);
        }
    }
    return data;
}

void check_decode(const Kernels& kernels) {
    for (const Codec& codec : CODECS) {
        const size_t columns = is_float(codec.id) ? 301 : 512, bytes = codec.row_bytes(columns);
        const std::vector<uint8_t> rows = encoded(codec, 5, columns, 1);
        std::vector<uint8_t> panel(panel_bytes(codec.id, columns));
        pack_panel(codec.id, rows.data(), bytes, 5, columns, panel.data());
        std::vector<float> plain(5 * columns), packed(5 * columns);
        for (size_t row = 0; row < 5; ++row) {
            kernels.decode(codec.id, rows.data() + row * bytes, columns, &plain[row * columns]);
            kernels.decode_panel_row(codec.id, panel.data(), row, columns, &packed[row * columns]);
        }
        print(named("decode " + std::string(codec.name)), plain);
        print(named("decode_panel_row " + std::string(codec.name)), packed);
    }
    std::vector<uint16_t> all(1u << 16);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
    for (CodecId id : {CodecId::F16, CodecId::BF16}) {
        std::vector<float> out(all.size());
        kernels.decode(id, reinterpret_cast<const uint8_t*>(all.data()), all.size(), out.data());
        print(id == CodecId::F16 ? "every f16" : "every bf16", out);
    }
}

void check_quantize(const Kernels& kernels) {
    const size_t columns = 96;
    for (uint64_t seed : {1, 2, 3}) {
        std::vector<float> x = seed == 3 ? any_bits(seed, columns) : rough(seed, columns);
        if (seed == 2) x[5] = INFINITY, x[70] = NAN;
        std::vector<QuantizedBlock> blocks(3);
        kernels.quantize(x.data(), columns, blocks.data(), 1);
        for (QuantizedBlock& block : blocks) {
            if (std::isnan(block.scale)) block.scale = block.scaled_sum = std::numeric_limits<float>::quiet_NaN();
        }
        print(named("quantize", seed), checksum(blocks.data(), blocks.size() * sizeof(QuantizedBlock)));
    }
}

// Random rows into a weight.
void fill(Weight& weight, Backend& backend, const Codec& codec, size_t rows, uint64_t seed) {
    const std::vector<uint8_t> data = encoded(codec, rows, weight.columns(), seed);
    backend.pack(weight, codec, data.data(), rows, codec.row_bytes(weight.columns()));
}

void check_linear(const Kernels& kernels) {
    for (bool exact : {false, true}) {
        Backend backend(2, kernels, exact);
        for (const Codec& codec : CODECS) {
            if (exact && codec.block_size == 32 && codec.id != CodecId::Q8_0) continue;
            const size_t rows = 83, columns = is_float(codec.id) ? 301 : 512;
            Weight weight(columns);
            fill(weight, backend, codec, rows, 7);
            for (size_t tokens : {1, 2, 3, 7, 29}) {
                std::vector<float> x = rough(tokens, tokens * columns), y(tokens * rows);
                if (tokens == 7) x[2 * columns + 40] = NAN, x[4 * columns] = INFINITY;
                const std::vector<float> bias = normals(3, rows), add = normals(4, tokens * rows);
                backend.linear({&weight, x.data(), tokens, y.data(), bias.data(), add.data(), 0.7f});
                print(named((exact ? "linear in float32 " : "linear ") + std::string(codec.name), tokens), y);
            }
        }
    }
}

void check_row(const Kernels& kernels, const std::string& name, const std::vector<float>& x, const std::vector<float>& weight) {
    const size_t n = x.size();
    std::vector<float> out(n);
    for (NormId kind : {NormId::rms, NormId::layer}) {
        kernels.norm({kind, weight.data(), weight.data(), 1e-5f}, x.data(), weight.data(), n, out.data());
        print(named("norm" + name, static_cast<int>(kind)), out);
    }
    for (ActivationId kind : {ActivationId::silu, ActivationId::gelu, ActivationId::gelu_tanh, ActivationId::relu}) {
        kernels.activate(kind, x.data(), weight.data(), n, out.data());
        print(named("activate" + name, static_cast<int>(kind)), out);
    }
    kernels.scale_add(x.data(), 0.3f, weight.data(), n, out.data());
    print("scale_add" + name, out);
    kernels.softcap(x.data(), 3.0f, n, out.data());
    print("softcap" + name, out);
    const float highest = kernels.largest(x.data(), n);
    print("largest" + name, std::vector{highest});
    kernels.exp_below(x.data(), highest, n, out.data());
    print("exp_below" + name, out);
}

void check_rows(const Kernels& kernels) {
    for (size_t n : {1, 15, 16, 17, 100, 1000}) {
        const std::vector<float> weight = normals(n + 2, n);
        check_row(kernels, named(" of normals", n), normals(n, n), weight);
        check_row(kernels, named(" of rough values", n), rough(n, n), weight);
        check_row(kernels, named(" of any bits", n), any_bits(n + 1, n), weight);
    }
}

// Sequences of one head layout in one layer of a cache, in blocks of 16 tokens that lie in reverse order.
struct Shape {
    size_t heads, kv_heads, dim, window;
    float softcap;
    QkNormId norm;
    KVType type;
};

// One sequence: positions 0 … length - 1 are written, and attended to from position `first` on.
void check_sequence(Backend& backend, const Shape& s, size_t first, size_t length) {
    const size_t num_blocks = (length + 15) / 16, half = s.dim / 4, q_size = s.heads * s.dim;
    KVCache cache(s.type, 1, num_blocks, 16, s.kv_heads, s.dim);
    std::vector<int32_t> table(num_blocks), positions(length);
    for (size_t i = 0; i < num_blocks; ++i) table[i] = static_cast<int32_t>(num_blocks - 1 - i);
    for (size_t i = 0; i < length; ++i) positions[i] = static_cast<int32_t>(i);
    const std::vector<float> cos = normals(11, length * half), sin = normals(12, length * half);
    const std::vector<float> weight = normals(13, q_size);
    std::vector<float> qkv = normals(14, length * (q_size + 2 * s.kv_heads * s.dim)), q(length * q_size);
    const int32_t whole[2] = {0, static_cast<int32_t>(length)};
    backend.rope_write({qkv.data(), q.data(), s.heads, cos.data(), sin.data(), positions.data(), half, s.norm, weight.data(),
                        weight.data(), 1e-6f},
                       {positions.data(), whole, table.data(), length, 1, num_blocks}, cache.layer(0));
    const std::string name = named("", s.heads, s.kv_heads, s.dim, s.window, static_cast<int>(s.type), first, length);
    print("rope_write" + name, checksum(cache.layer(0).data, cache.nbytes(), checksum(q.data(), q.size() * sizeof(float))));
    const size_t tokens = length - first;
    const int32_t part[2] = {0, static_cast<int32_t>(tokens)};
    std::vector<float> out(tokens * q_size);
    backend.attention({&q[first * q_size], out.data(), s.heads, 0.2f, s.window, s.softcap, true},
                      {&positions[first], part, table.data(), tokens, 1, num_blocks}, cache.layer(0));
    print("attention" + name, out);
    if (first) return;
    backend.attention({q.data(), out.data(), s.heads, 0.2f, s.window, s.softcap, false},
                      {positions.data(), whole, table.data(), length, 1, num_blocks}, cache.layer(0));
    print("attention to both sides" + name, out);
}

void check_attention(const Kernels& kernels) {
    Backend backend(2, kernels, false);
    const Shape shapes[] = {
        {2, 2, 16, 0, 0.0f, QkNormId::none, KVType::f16},    {6, 2, 20, 0, 50.0f, QkNormId::head, KVType::f32},
        {8, 1, 64, 100, 0.0f, QkNormId::full, KVType::f16},  {5, 1, 80, 0, 30.0f, QkNormId::none, KVType::f32},
        {4, 2, 128, 300, 0.0f, QkNormId::head, KVType::f16}, {4, 2, 20, 0, 0.0f, QkNormId::none, KVType::q8},
        {8, 1, 64, 300, 30.0f, QkNormId::head, KVType::q8},
    };
    for (const Shape& shape : shapes) {
        check_sequence(backend, shape, 0, 1);
        check_sequence(backend, shape, 0, 37);
        check_sequence(backend, shape, 0, 600);
        check_sequence(backend, shape, 128, 131);
        check_sequence(backend, shape, 1100, 1101);
        check_sequence(backend, shape, 500, 530);
    }
}

// Floats of any bits through the cache's float16 and back out of the cache's memory.
void check_halves(const Kernels& kernels) {
    Backend backend(1, kernels, false);
    KVCache cache(KVType::f16, 1, 4, 16, 1, 1000);
    std::vector<float> qkv = any_bits(21, 64 * 3000), q(64 * 1000);
    for (float& value : qkv)
        if (std::isnan(value)) value = 65519.99f;
    std::vector<int32_t> positions(64);
    for (size_t i = 0; i < 64; ++i) positions[i] = static_cast<int32_t>(i);
    const int32_t table[] = {2, 0, 3, 1}, whole[] = {0, 64};
    backend.rope_write({qkv.data(), q.data(), 1, nullptr, nullptr, positions.data(), 0, QkNormId::none, nullptr, nullptr, 0.0f},
                       {positions.data(), whole, table, 64, 1, 4}, cache.layer(0));
    print("to_f16", checksum(cache.layer(0).data, cache.nbytes()));
}

// Rows of three adapters and of none: one of two low-rank parts, one that stands for the whole matrix, one of both.
void check_adapters(const Kernels& kernels) {
    Backend backend(2, kernels, false);
    const size_t rows = 70, columns = 96, tokens = 29;
    Weight down(columns), up(5), wide(columns), tall(16), whole(columns);
    const Codec& floats = *find_codec("f32");
    fill(down, backend, floats, 5, 31), fill(up, backend, floats, 40, 32);
    fill(wide, backend, floats, 16, 33), fill(tall, backend, floats, rows, 34);
    fill(whole, backend, *find_codec("q8_0"), rows, 35);
    Deltas deltas(rows, columns, false);
    deltas.set(0, {{&down, &up, 30, 0.5f}, {&wide, &tall, 0, 2.0f}});
    deltas.set(1, {{nullptr, &whole, 0, 1.0f}});
    deltas.set(3, {{nullptr, &whole, 0, 1.0f}, {&down, &up, 7, -1.0f}});
    const int32_t slots_of[] = {0, -1, 3, 1, 0, 2};
    std::vector<int32_t> slots(tokens);
    for (size_t t = 0; t < tokens; ++t) slots[t] = slots_of[t % 6];
    const RowsByAdapter by_adapter(slots.data(), tokens);
    const std::vector<float> x = rough(36, tokens * columns);
    std::vector<float> y = normals(37, tokens * rows);
    backend.adapt({&deltas, x.data(), nullptr, &by_adapter, 0.7f, nullptr, y.data()});
    print("adapt", y);
    // Parts that begin at panels: matrix and adapters in one go.
    deltas.clear(1), deltas.clear(3);
    deltas.set(0, {{&down, &up, 16, 0.5f}, {&wide, &tall, 0, 2.0f}});
    backend.adapted_linear({&whole, x.data(), tokens, y.data()}, {&deltas, x.data(), nullptr, &by_adapter, 0.7f, nullptr, y.data()});
    print("adapted_linear", y);
}

void check_experts(const Kernels& kernels) {
    Backend backend(2, kernels, false);
    const size_t hidden = 96, inner = 64, num_experts = 6, tokens = 29;
    Weight router(hidden);
    fill(router, backend, *find_codec("f32"), num_experts, 51);
    std::deque<Weight> gate_up, down;  // which stay where they are
    for (size_t e = 0; e < num_experts; ++e) {
        fill(gate_up.emplace_back(hidden), backend, *find_codec("q8_0"), 2 * inner, 52 + e);
        fill(down.emplace_back(inner), backend, *find_codec("q4_0"), hidden, 62 + e);
    }
    std::vector<const Weight*> first, second;
    for (size_t e = 0; e < num_experts; ++e) first.push_back(&gate_up[e]), second.push_back(&down[e]);
    const std::vector<float> x = normals(71, tokens * hidden);
    std::vector<float> out(tokens * hidden);
    backend.moe({&router, first, second, x.data(), tokens, 2, true, ActivationId::silu, 0.7f, nullptr, out.data()});
    print("moe", out);
}

// What a token that repeats itself now and then is guessed to be followed by, and how surely.
void check_lookup() {
    Random random(81);
    PromptLookup lookup({1, 2, 3});
    uint64_t sum = checksum(nullptr, 0);
    for (int i = 0; i < 2000; ++i) {
        lookup.add(i % 7 ? static_cast<int32_t>(i % 11) : static_cast<int32_t>(random.below(5)));
        const std::vector<double> chances = lookup.chances(8);
        const std::vector<int32_t> guess = lookup.guess(chances.size());
        sum = checksum(chances.data(), chances.size() * sizeof(double), checksum(guess.data(), guess.size() * sizeof(int32_t), sum));
    }
    print("prompt lookup", sum);
}

// As a library beside us may have set the thread: subnormals are 0.
void flush_subnormals() {
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040);  // FTZ and DAZ
#elif defined(__aarch64__)
    uint64_t mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    asm volatile("msr fpcr, %0" : : "r"(mode | 1u << 24) : "memory");
#endif
}

// On a thread of its own that flushes subnormals before and after.
void check_float_mode(const Kernels& kernels) {
    std::thread([&kernels] {
        std::vector<float> x(40), out(40);
        for (size_t i = 0; i < 40; ++i) x[i] = i % 2 ? 1e-40f : -3e-42f;
        flush_subnormals();
        kernels.scale_add(x.data(), 0.5f, nullptr, 40, out.data());
        print("subnormals, flushed", out);
        {
            const IeeeFloats floats;
            kernels.scale_add(x.data(), 0.5f, nullptr, 40, out.data());
            print("subnormals, kept", out);
        }
        kernels.scale_add(x.data(), 0.5f, nullptr, 40, out.data());
        print("subnormals, flushed again", out);
    }).join();
}

// Every filter and penalty somewhere; rows of all kinds in one call.
void check_sampling(const Kernels& kernels) {
    Backend backend(2, kernels, false);
    const size_t num_rows = 64, vocabulary = 1003;
    std::vector<float> logits = normals(41, num_rows * vocabulary);
    for (float& logit : logits) logit *= 6;
    logits[5 * vocabulary + 3] = NAN, logits[6 * vocabulary + 9] = INFINITY;
    std::vector<int32_t> history(40);
    for (size_t i = 0; i < history.size(); ++i) history[i] = static_cast<int32_t>(i * i % 13);
    const int32_t bias_ids[] = {7, 900}, phrase_ids[] = {3, 4, 12}, phrase_start[] = {0, 2, 3};
    const float bias_values[] = {3.0f, -INFINITY};
    std::vector<uint32_t> sets(2 * ((vocabulary + 31) / 32), 0xFFFFFFF7u);
    std::vector<SamplingRow> rows(num_rows);
    for (size_t r = 0; r < num_rows; ++r) {
        SamplingRow& row = rows[r];
        row = {};
        const auto pick = [&](size_t bit, auto on, auto off) { return r >> bit & 1 ? on : off; };
        row.seed = r * 977, row.stream = static_cast<uint32_t>(r % 3), row.position = static_cast<uint32_t>(r);
        row.temperature = r % 16 == 15 ? 0.0f : 0.8f;
        row.dynatemp_range = pick(1, 0.3f, 0.0f), row.dynatemp_exponent = 1.5f;
        row.repetition_penalty = pick(2, 1.2f, 1.0f), row.presence_penalty = pick(2, 0.5f, 0.0f), row.frequency_penalty = 0.1f;
        row.dry_multiplier = pick(3, 0.8f, 0.0f), row.dry_base = 1.75f, row.dry_allowed_length = 2, row.dry_penalty_last_n = -1;
        row.top_n_sigma = pick(4, 2.0f, 0.0f), row.min_p = pick(0, 0.01f, 0.0f), row.top_k = pick(5, 40, 0);
        row.typical_p = pick(1, 0.9f, 1.0f), row.top_p = pick(0, 0.95f, 1.0f);
        row.xtc_probability = pick(3, 0.5f, 0.0f), row.xtc_threshold = 0.1f;
        row.mirostat = r % 8 == 6 ? 2 : 0, row.mirostat_tau = 3.0f, row.mirostat_eta = 0.1f, row.mirostat_mu = 6.0f;
        row.no_repeat_ngram_size = pick(4, 3, 0);
        row.mask = r % 5 == 0 ? 0 : -1, row.allowed_set = r % 7 == 0 ? 1 : -1, row.breaker_set = -1;
        row.history_end = pick(2, 40, 0), row.output_start = pick(2, 11, 0);
        row.bias_end = pick(1, 2, 0), row.ban_end = pick(0, 2, 0);
    }
    std::vector<int32_t> tokens(num_rows);
    backend.sample({logits.data(), num_rows, vocabulary, rows.data(), history.data(), bias_ids, bias_values, phrase_ids,
                    phrase_start, sets.data(), sets.data(), tokens.data()});
    print("sample", checksum(tokens.data(), tokens.size() * sizeof(int32_t)));
    print("sampling's state", checksum(rows.data(), rows.size() * sizeof(SamplingRow)));
    std::vector<float> chosen(num_rows), best(num_rows * 5);
    std::vector<int32_t> rank(num_rows), best_ids(num_rows * 5);
    backend.logprobs({logits.data(), num_rows, vocabulary, 5, tokens.data(), chosen.data(), rank.data(), best_ids.data(),
                      best.data()});
    print("logprobs", chosen);
    print("logprobs of the best", best);
    print("ranks", checksum(best_ids.data(), best_ids.size() * sizeof(int32_t), checksum(rank.data(), rank.size() * sizeof(int32_t))));
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 2) {
        for (std::string_view name : instruction_sets()) std::printf("%.*s\n", static_cast<int>(name.size()), name.data());
        return 0;
    }
    const Kernels* kernels = find_kernels(arguments[1]);
    if (!kernels) {
        std::fprintf(stderr, "this machine has no instruction set %s; without arguments its sets are listed\n", arguments[1]);
        return 2;
    }
    check_decode(*kernels);
    check_quantize(*kernels);
    check_linear(*kernels);
    check_rows(*kernels);
    check_attention(*kernels);
    check_halves(*kernels);
    check_adapters(*kernels);
    check_experts(*kernels);
    check_lookup();
    check_float_mode(*kernels);
    check_sampling(*kernels);
}
