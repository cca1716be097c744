#!/usr/bin/env bash
# `make check-arm64`: the arm64 kernels under emulation, bit for bit beside AVX2's.
set -euo pipefail
cd "$(dirname "$0")/../.."

skip() {
    echo "check-arm64: skipped: $1"
    exit 0
}
for tool in cmake aarch64-linux-gnu-g++ qemu-aarch64; do
    command -v "$tool" > /dev/null || skip "$tool is missing (Debian: apt-get install cmake g++-aarch64-linux-gnu qemu-user)"
done

build() {
    local folder=$1
    shift
    cmake -S . -B "$folder" -DHEADRACE_NATIVE_CHECK=ON "$@" > /dev/null
    cmake --build "$folder" --parallel 2
}
build build/native
sets=$(build/native/kernel_checksums)
grep -qx avx2 <<< "$sets" || skip "this machine has no AVX2 to compare with"
build build/arm64 -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static

expected=build/native/avx2.txt
build/native/kernel_checksums avx2 > "$expected"

# Fails with the cases that differ.
compare() {
    diff "$expected" - > build/native/difference.txt || {
        echo "check-arm64: $1 differs from avx2 in:"
        sed -n 's/^> \(.*\) [0-9a-f]*$/    \1/p' build/native/difference.txt
        exit 1
    }
    echo "check-arm64: $1 equals avx2 in $(wc -l < "$expected") cases"
}
for set in avx512 avx512vnni; do
    if grep -qx "$set" <<< "$sets"; then build/native/kernel_checksums "$set" | compare "$set"; fi
done
# A processor without either extension, one with the first, one with both: each has to choose its own set.
while read -r processor best; do
    emulated=(qemu-aarch64 -cpu "$processor" build/arm64/kernel_checksums)
    chosen=$("${emulated[@]}" | head -1)
    [ "$chosen" = "$best" ] || { echo "check-arm64: $processor chooses $chosen, expected $best"; exit 1; }
    "${emulated[@]}" "$best" | compare "arm64 $best"
done << 'END'
cortex-a53 baseline
cortex-a76 neon_dotprod
max neon_i8mm
END
