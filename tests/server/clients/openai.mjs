// npm's `openai`: chat and responses, files and a batch, errors, tries, cancellation.
// Runs behind shared.mjs.
import OpenAI, { toFile } from "openai";

const clientOf = (server, options = {}) =>
  new OpenAI({ baseURL: `${servers[server]}/v1`, apiKey: "none", maxRetries: 0, ...options });
const client = clientOf("quick");
const messages = [{ role: "user", content: "Hi." }];
const short = { model: "fake", messages, max_tokens: 6 };

said.models = (await client.models.list()).data.map((model) => model.id);
const chat = await client.chat.completions.create(short);
said.chat = chat.choices[0].message.content;
said.tokens = chat.usage.completion_tokens;
said.chatStream = "";
for await (const chunk of await client.chat.completions.create({ ...short, stream: true }))
  said.chatStream += chunk.choices[0]?.delta?.content ?? "";
said.completion = (await client.completions.create({ model: "fake", prompt: "x", max_tokens: 6 })).choices[0].text;

const first = await client.responses.create({ model: "fake", input: "Hi.", max_output_tokens: 6 });
said.response = first.output_text;
const stream = client.responses.stream({ model: "fake", input: "Hi.", max_output_tokens: 6 });
said.responseStream = "";
stream.on("response.output_text.delta", (event) => (said.responseStream += event.delta));
said.status = (await stream.finalResponse()).status;
const second = await client.responses.create({
  model: "fake", input: "On.", previous_response_id: first.id, max_output_tokens: 6,
});
said.previous = second.previous_response_id === first.id;
said.items = (await client.responses.inputItems.list(first.id)).data.length;
let later = await client.responses.create({ model: "fake", input: "Hi.", background: true, max_output_tokens: 6 });
while (later.status === "in_progress") later = await client.responses.retrieve(later.id);
said.background = later.output_text;
await client.responses.delete(later.id);
said.deleted = await client.responses.retrieve(later.id).catch((error) => error.status);

const lines = [1, 2, 3].map((n) => JSON.stringify({
  custom_id: `${n}`, method: "POST", url: "/v1/chat/completions", body: short,
}));
const file = await client.files.create({
  file: await toFile(Buffer.from(lines.join("\n")), "in.jsonl"), purpose: "batch",
});
let batch = await client.batches.create({
  input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h",
});
while (!["completed", "failed"].includes(batch.status)) batch = await client.batches.retrieve(batch.id);
const results = await (await client.files.content(batch.output_file_id)).text();
said.batch = results.trim().split("\n").map((line) => JSON.parse(line).response.body.choices[0].message.content);

const wrong = await raised(client.chat.completions.create({ ...short, top_p: 7 }));
said.wrong = [wrong instanceof OpenAI.BadRequestError, wrong.status, wrong.param, wrong.type];
const missing = await raised(client.chat.completions.create({ ...short, model: "gpt" }));
said.missing = [missing instanceof OpenAI.NotFoundError, missing.code];
const stranger = await raised(clientOf("keyed").chat.completions.create(short));
said.stranger = [stranger instanceof OpenAI.AuthenticationError, stranger.code];
said.key = (await clientOf("keyed", { apiKey: "open-sesame" }).chat.completions.create(short)).choices.length;
const full = await raised(clientOf("full", { maxRetries: 1 }).chat.completions.create(short));
said.full = [full instanceof OpenAI.RateLimitError, full.code, full.headers.get("retry-after")];
const broken = await raised((async () => {
  for await (const _ of await clientOf("broken").chat.completions.create({ ...short, stream: true }));
})());
said.broken = [broken instanceof OpenAI.APIError, broken.code];

const long = { model: "fake", messages, max_tokens: 1900 };
const controller = new AbortController();
const whole = raised(clientOf("slow").chat.completions.create(long, { signal: controller.signal }));
await measured(RUNNING, 1);
for await (const _ of await clientOf("slow").chat.completions.create({ ...long, stream: true })) break;
const events = await clientOf("slow").responses.create({
  model: "fake", input: "Hi.", max_output_tokens: 1900, stream: true, store: false,
});
for await (const event of events) if (event.type === "response.output_text.delta") events.controller.abort();
controller.abort();
said.aborted = (await whole) instanceof OpenAI.APIUserAbortError;
said.cancelled = await measured(CANCELLED, 3);
