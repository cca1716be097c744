// Elements. Text only ever becomes text nodes: nothing of a model's or a server's words is read as markup.

export const $ = (id) => document.getElementById(id);

/** An element with properties (or attributes, where the name has a dash or is `role`) and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** An SVG element with attributes. */
export function drawn(tag, attributes = {}) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** 12,345 or 3.4: as many digits as say something. */
export const shown = (number) => (Math.abs(number) < 100 ? tenths : whole).format(number);

/** Seconds, as milliseconds where they are few. */
export const seconds = (time) =>
  time < 1 ? `${(time < 0.01 ? tenths : whole).format(time * 1000)} ms` : `${tenths.format(time)} s`;
