// The conversation: what is asked, what is streamed back, and how it goes on.

import { AnswerView, Clock } from "./answer.js";
import { Refused, events } from "./api.js";
import { $, element } from "./dom.js";
import { parameters, speakPlainly } from "./settings.js";

const ENDINGS = { length: "ended at the limit of tokens", stop: "", tool_calls: "" };

/** Turns in the order of the page: {message, view} for what is said, several messages for an answer with calls. */
let turns = [];
let running = null;

export const isRunning = () => running !== null;
export const stop = () => running?.abort();

/** Ask what stands in the message field. */
export function send() {
  const content = $("message").value;
  if (!content.trim() || running) return;
  const isChat = $("mode").value === "chat";
  if (!parameters(isChat)) return;
  $("message").value = "";
  say({ role: "user", content }, "You", content);
  void answer();
}

/** Answer the last question anew. */
export function again() {
  if (running) return;
  while (turns.at(-1)?.message.role === "assistant") turns.pop().view.remove();
  if (turns.length) void answer();
}

export function clear() {
  stop();
  for (const view of $("log").querySelectorAll(".turn")) view.remove(); // of failed answers too, which are no turns
  turns = [];
  $("welcome").hidden = false;
  $("again").disabled = true;
  $("message").focus();
}

function say(message, title, text) {
  const view = element(
    "article",
    { className: `turn ${message.role}`, "aria-label": title },
    element("pre", { className: "text", textContent: text }),
  );
  $("welcome").hidden = true;
  $("log").append(view);
  turns.push({ message, view });
}

/** The result of a call: when all calls of an answer have one, the model goes on. */
function give(call, result) {
  const asking = turns.findLast((turn) => turn.message.tool_calls?.includes(call));
  if (running || !asking) return false;
  say({ role: "tool", tool_call_id: call.id, content: result }, `Result of ${call.function.name}`, result);
  const given = turns.map((turn) => turn.message.tool_call_id);
  if (asking.message.tool_calls.every((each) => given.includes(each.id))) void answer();
  return true;
}

function request(isChat, found) {
  const common = { model: $("model").value, stream: true, stream_options: { include_usage: true }, ...found };
  const said = turns.map((turn) => turn.message);
  if (!isChat) return { ...common, prompt: said.findLast((message) => message.role === "user").content };
  const system = $("system").value.trim() ? [{ role: "system", content: $("system").value }] : [];
  return { ...common, messages: [...system, ...said] };
}

async function answer() {
  const isChat = $("mode").value === "chat";
  const found = parameters(isChat);
  if (!found) return;
  const view = new AnswerView("Answer");
  const body = request(isChat, found);
  const message = { role: "assistant", content: "" };
  const turn = { message, view: view.article };
  turns.push(turn);
  $("log").append(view.article);
  $("log").scrollTop = $("log").scrollHeight;
  begin();
  const clock = new Clock();
  const state = { usage: null, ending: "" };
  try {
    const path = isChat ? "v1/chat/completions" : "v1/completions";
    for await (const { event, time } of events(path, body, running.signal)) {
      if (take(event, { message, view, state })) clock.take(time);
    }
  } catch (error) {
    if (error.name === "AbortError") state.ending = "stopped";
    else if (isChat && error.code === "missing_chat_template") return plainly(turn);
    else view.fail(error instanceof Refused ? error.message : `The server cannot be reached: ${error.message}`);
  } finally {
    end();
  }
  view.flush();
  for (const call of message.tool_calls ?? []) view.grow(() => view.addCall(call, give));
  view.showCost(clock, state.usage, state.ending);
  if (!message.content && !message.tool_calls && !view.problem.hidden) turns = turns.filter((each) => each !== turn);
  $("said").textContent = view.problem.hidden ? "The answer is there." : view.problem.textContent;
}

/** The model has no chat template: what was asked is text to go on from. */
function plainly(turn) {
  turns = turns.filter((each) => each !== turn);
  turn.view.remove();
  speakPlainly();
  $("said").textContent = "This model has no chat template: it goes on from your text.";
  queueMicrotask(() => void answer());
}

/** Whether the event had something of the answer. */
function take(event, { message, view, state }) {
  state.usage = event.usage ?? state.usage;
  const choice = event.choices?.[0];
  if (!choice) return false;
  const delta = choice.delta ?? { content: choice.text };
  const thought = delta.reasoning_content ?? delta.reasoning;
  if (thought) view.add("thought", thought);
  if (delta.content) {
    message.content += delta.content;
    view.add("text", delta.content);
  }
  for (const piece of delta.tool_calls ?? []) join(message, piece);
  if (choice.finish_reason) state.ending = ENDINGS[choice.finish_reason] ?? choice.finish_reason;
  return Boolean(thought || delta.content || delta.tool_calls);
}

/** Calls come in pieces: the name first, then its arguments. */
function join(message, { index, id, function: piece }) {
  message.tool_calls ??= [];
  const call = (message.tool_calls[index] ??= { id, type: "function", function: { name: "", arguments: "" } });
  call.function.name += piece?.name ?? "";
  call.function.arguments += piece?.arguments ?? "";
}

function begin() {
  running = new AbortController();
  $("log").setAttribute("aria-busy", "true");
  $("send").hidden = true;
  $("stop").hidden = false;
  $("again").disabled = true;
  $("said").textContent = "";
}

function end() {
  const hadFocus = document.activeElement === $("stop");
  running = null;
  $("log").removeAttribute("aria-busy");
  $("send").hidden = false;
  $("stop").hidden = true;
  $("again").disabled = false;
  if (hadFocus) $("message").focus();
}
