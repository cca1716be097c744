// npm's `openai` client: chat, responses (whole, streamed, gone on from, in the background), files, a batch.
// node client.cjs BASE_URL; prints one JSON line.
const { OpenAI, toFile } = require("openai");

async function main(baseURL) {
  const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
  const said = {};
  const messages = [{ role: "user", content: "Hi." }];
  const chat = await client.chat.completions.create({ model: "fake", messages, max_tokens: 6 });
  said.chat = chat.choices[0].message.content;
  said.chatStream = "";
  for await (const chunk of await client.chat.completions.create({ model: "fake", messages, max_tokens: 6, stream: true }))
    said.chatStream += chunk.choices[0]?.delta?.content ?? "";

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
    custom_id: `${n}`, method: "POST", url: "/v1/chat/completions", body: { model: "fake", messages, max_tokens: 6 },
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
  console.log(JSON.stringify(said));
}

main(process.argv[2]);
