// npm's `@anthropic-ai/sdk`: messages, whole and streamed, errors, tries, cancellation.
// Runs behind shared.mjs.
import Anthropic from "@anthropic-ai/sdk";

const clientOf = (server, options = {}) =>
  new Anthropic({ baseURL: servers[server], apiKey: "none", maxRetries: 0, ...options });
const client = clientOf("quick");
const messages = [{ role: "user", content: "Hi." }];
const short = { model: "fake", messages, max_tokens: 6 };

said.models = (await client.models.list()).data.map((model) => model.id);
const message = await client.messages.create(short);
said.message = message.content[0].text;
said.stop = message.stop_reason;
said.events = [];
const stream = client.messages.stream(short).on("streamEvent", (event) => said.events.push(event.type));
said.messageStream = await stream.finalText();
said.counted = (await client.messages.countTokens({ model: "fake", messages })).input_tokens;

const wrong = await raised(client.messages.create({ ...short, top_p: 7 }));
said.wrong = [wrong instanceof Anthropic.BadRequestError, wrong.status, wrong.error.error.type];
const missing = await raised(client.messages.create({ ...short, model: "claude" }));
said.missing = [missing instanceof Anthropic.NotFoundError, missing.error.error.type];
const stranger = await raised(clientOf("keyed").messages.create(short));
said.stranger = [stranger instanceof Anthropic.AuthenticationError, stranger.error.error.type];
said.key = (await clientOf("keyed", { apiKey: "open-sesame" }).messages.create(short)).content.length;
const full = await raised(clientOf("full", { maxRetries: 1 }).messages.create(short));
said.full = [full instanceof Anthropic.RateLimitError, full.error.error.type, full.headers.get("retry-after")];
const broken = await raised(clientOf("broken").messages.stream(short).finalText());
said.broken = [broken instanceof Anthropic.AnthropicError, broken.error.error.type];

const long = { model: "fake", messages, max_tokens: 1900 };
const controller = new AbortController();
const whole = raised(clientOf("slow").messages.create(long, { signal: controller.signal }));
await measured(RUNNING, 1);
for await (const event of await clientOf("slow").messages.create({ ...long, stream: true }))
  if (event.type === "content_block_delta") break;
const helper = clientOf("slow").messages.stream(long);
helper.on("text", () => helper.abort());
said.helper = (await raised(helper.finalText())) instanceof Anthropic.APIUserAbortError;
controller.abort();
said.aborted = (await whole) instanceof Anthropic.APIUserAbortError;
said.cancelled = await measured(CANCELLED, 3);
