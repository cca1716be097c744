// npm's `ollama`: chat and generate, whole and streamed, the list of models, errors, cancellation.
// Runs behind shared.mjs.
import { Ollama } from "ollama";

const clientOf = (server, options = {}) => new Ollama({ host: servers[server], ...options });
const client = clientOf("quick");
const messages = [{ role: "user", content: "Hi." }];
const short = { model: "fake", messages, options: { num_predict: 6 } };

said.models = (await client.list()).models.map((model) => model.name);
said.running = (await client.ps()).models.length;
said.shown = (await client.show({ model: "fake" })).capabilities;
const chat = await client.chat(short);
said.chat = chat.message.content;
said.done = [chat.done, chat.done_reason, chat.eval_count];
said.chatStream = "";
for await (const part of await client.chat({ ...short, stream: true })) said.chatStream += part.message.content;
said.generate = (await client.generate({ model: "fake", prompt: "Hi.", raw: true, options: { num_predict: 6 } })).response;

const wrong = await raised(client.chat({ ...short, options: { temperature: -7 } }));
said.wrong = [wrong.status_code, wrong.error];
said.missing = (await raised(client.chat({ ...short, model: "llama3" }))).status_code;
said.stranger = (await raised(clientOf("keyed").chat(short))).status_code;
const keyed = clientOf("keyed", { headers: { authorization: "Bearer open-sesame" } });
said.key = (await keyed.chat(short)).done;
const full = await raised(clientOf("full").chat(short));
said.full = [full.status_code, full.error];
const broken = await raised((async () => {
  for await (const _ of await clientOf("broken").chat({ ...short, stream: true }));
})());
said.broken = broken.message;

const slow = clientOf("slow");
const parts = await slow.chat({ model: "fake", messages, options: { num_predict: 1900 }, stream: true });
const aborted = await raised((async () => {
  for await (const part of parts) if (part.message.content) parts.abort();
})());
said.aborted = aborted.name;
said.cancelled = await measured(CANCELLED, 1);
