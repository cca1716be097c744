// One answer on the page: its thought, its text, its calls, and what it cost.

import { element, seconds, shown } from "./dom.js";

/** When an answer's pieces came, in milliseconds of performance.now(). */
export class Clock {
  sent = performance.now();
  first = null;
  last = null;
  pieces = 0;
  early = 0;

  take(time) {
    this.first ??= time;
    this.last = time;
    this.pieces += 1;
    if (time === this.first) this.early += 1;
  }

  /** Tokens a second: of those that came after the first read; of all, prompt included, when that was the only one. */
  speed(tokens) {
    const late = this.pieces - this.early;
    if (!late) return (1000 * tokens) / (this.last - this.sent);
    return (1000 * tokens * late) / this.pieces / (this.last - this.first);
  }
}

export class AnswerView {
  constructor(title) {
    this.thought = element("pre", { className: "text" });
    this.fold = element("details", { className: "thought", hidden: true }, element("summary", { textContent: "Thought" }), this.thought);
    this.text = element("pre", { className: "text" });
    this.calls = element("div", { className: "calls" });
    this.cost = element("p", { className: "cost" });
    this.problem = element("p", { className: "error", hidden: true });
    this.article = element(
      "article",
      { className: "turn answer", "aria-label": title },
      ...[this.fold, this.text, this.calls, this.problem, this.cost],
    );
    this.pending = { thought: "", text: "" };
    this.isDue = false;
  }

  /** Show more of the text; many pieces become one change of the page. */
  add(place, words) {
    this.pending[place] += words;
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => this.flush());
  }

  flush() {
    this.isDue = false;
    this.grow(() => {
      for (const place of ["thought", "text"]) {
        if (this.pending[place]) this[place].append(this.pending[place]);
        this.pending[place] = "";
      }
      this.fold.hidden = !this.thought.firstChild;
    });
  }

  /** Change the answer; who has been reading its end goes on to do so. */
  grow(change) {
    const log = this.article.parentElement;
    const follows = log && log.scrollHeight - log.scrollTop - log.clientHeight < 60;
    change();
    if (follows) log.scrollTop = log.scrollHeight;
  }

  fail(message) {
    this.problem.hidden = false;
    this.problem.textContent = message;
  }

  /** A tool call, and a field for what it gave; `answerWith` gets the result. */
  addCall(call, answerWith) {
    const id = `result-${crypto.randomUUID()}`;
    const field = element("input", { id, type: "text", autocomplete: "off" });
    const form = element(
      "form",
      { className: "result" },
      element("label", { htmlFor: id, textContent: "It gave" }),
      field,
      element("button", { textContent: "Go on" }),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (answerWith(call, field.value)) for (const each of form.elements) each.disabled = true;
    });
    const name = element("b", { textContent: call.function.name });
    const what = element("pre", { className: "text code", textContent: indented(call.function.arguments) });
    this.calls.append(element("div", { className: "call" }, element("p", {}, "Calls ", name), what, form));
  }

  /** `usage` is the server's own count. */
  showCost(clock, usage, ending = "") {
    const facts = [];
    if (usage?.completion_tokens && clock.first !== null) {
      facts.push(["speed", `${shown(clock.speed(usage.completion_tokens))} tokens/s`]);
      facts.push(["first", `first token ${seconds((clock.first - clock.sent) / 1000)}`]);
      facts.push(["tokens", `${shown(usage.completion_tokens)} ${usage.completion_tokens === 1 ? "token" : "tokens"}`]);
      const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
      const share = usage.prompt_tokens ? ` (${shown((100 * cached) / usage.prompt_tokens)} %)` : "";
      facts.push(["prompt", `prompt ${shown(usage.prompt_tokens)}, ${shown(cached)} from the cache${share}`]);
    }
    if (ending) facts.push(["ending", ending]);
    const spans = facts.map(([name, text]) => element("span", { textContent: text, "data-fact": name }));
    this.grow(() => this.cost.replaceChildren(...spans));
  }
}

function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
