// What the fields of the settings ask for.

import { $ } from "./dom.js";

const EXAMPLES = {
  schema: {
    type: "object",
    properties: {
      title: { type: "string", maxLength: 60 },
      characters: { type: "array", items: { type: "string" }, maxItems: 3 },
      mood: { enum: ["happy", "sad", "funny"] },
    },
    required: ["title", "characters", "mood"],
    additionalProperties: false,
  },
  tools: [
    {
      type: "function",
      function: {
        name: "get_weather",
        description: "The weather of a city now",
        parameters: {
          type: "object",
          properties: { city: { type: "string" } },
          required: ["city"],
          additionalProperties: false,
        },
      },
    },
  ],
};

/** The parameters of the next request; null when a field has to be mended, which it then says. */
export function parameters(isChat) {
  const schema = json("schema", (value) => typeof value === "object" && !Array.isArray(value), "a JSON object");
  const tools = isChat ? json("tools", Array.isArray, "a JSON array of tools") : undefined;
  const numbers = { temperature: "temperature", seed: "seed", max_tokens: "max-tokens" };
  const found = {};
  for (const [name, id] of Object.entries(numbers)) {
    if (!$(id).reportValidity()) return null;
    if ($(id).value !== "") found[name] = $(id).valueAsNumber;
  }
  if (schema === null || tools === null) return null;
  if (schema) found.response_format = { type: "json_schema", json_schema: { name: "answer", schema, strict: true } };
  if (tools?.length) found.tools = tools;
  return found;
}

/** The value of a field of JSON: undefined for an empty one, null for a wrong one. */
function json(id, fits, wanted) {
  const field = $(id);
  let value;
  let problem = "";
  if (field.value.trim()) {
    try {
      value = JSON.parse(field.value);
      if (value === null || !fits(value)) problem = `This should be ${wanted}.`;
    } catch (error) {
      problem = `This is not JSON: ${error.message}.`;
    }
  }
  $(`${id}-error`).textContent = problem;
  field.setAttribute("aria-invalid", String(problem !== ""));
  if (!problem) return value;
  field.focus();
  return null;
}

export function prepare() {
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", () => {
      const field = $(button.dataset.example);
      field.value = JSON.stringify(EXAMPLES[field.id], null, 2);
      field.focus();
      field.setSelectionRange(0, 0);
      field.scrollTop = 0;
    });
  }
  const follow = () => {
    for (const field of document.querySelectorAll("[data-chat-only]")) field.disabled = $("mode").value !== "chat";
  };
  $("mode").addEventListener("change", follow);
  follow();
}

export function speakPlainly() {
  $("mode").value = "completion";
  $("mode").dispatchEvent(new Event("change"));
}
