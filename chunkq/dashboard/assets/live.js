// The stream of this tab: messages are applied to the elements that are there; rows are never
// rebuilt, and none moves while somebody points at the table or is in it with the keyboard.

const ATTRIBUTES = new Set(["title", "href", "d", "value", "data-tone", "aria-label", "viewBox"]);
const RETRY_MS = [500, 1000, 2000, 4000, 8000];
// The server says something every two seconds; after this it is away.
const SILENCE_MS = 5000;

/** Set an element's text or attributes; text is text, whatever it looks like. */
function apply(element, value) {
  if (typeof value === "string") {
    if (element.textContent !== value) element.textContent = value;
    return;
  }
  for (const [name, each] of Object.entries(value)) {
    if (name === "text") {
      if (element.textContent !== each) element.textContent = each;
    } else if (name === "hidden") {
      element.toggleAttribute("hidden", each === true);
    } else if (ATTRIBUTES.has(name) && (name !== "href" || /^[/#](?!\/)/.test(each))) {
      element.setAttribute(name, each);
    }
  }
}

/** One list of the page: its container, the row to copy, and the rows by key. */
class List {
  constructor(container, template, announce) {
    this.container = container;
    this.template = template;
    this.announce = announce;
    this.wanted = null;
    this.rows = new Map();
    this.cells = new WeakMap();
    for (const row of container.children) this.rows.set(row.dataset.key, row);
    this.box = container.closest("[data-table]");
    this.button = this.box?.querySelector(".reorder") ?? null;
    this.button?.addEventListener("click", () => this.settle());
    this.pointed = false;
    if (!this.box) return;
    this.box.addEventListener("focusout", () => setTimeout(() => this.busy() || this.settle()));
    const hand = { x: -1, y: -1 };
    for (const event of ["pointermove", "pointerout"]) {
      document.addEventListener(event, ({ clientX, clientY }) => {
        // the same place: what lies under the pointer was moved, not the pointer
        if (clientX === hand.x && clientY === hand.y) return;
        hand.x = clientX;
        hand.y = clientY;
        setTimeout(() => this.look());
      });
    }
  }

  /** The pointer was moved: to the rows, in them, or away. */
  look() {
    this.pointed = this.hovered();
    if (this.wanted && !this.busy()) this.settle();
  }

  change(change, full) {
    for (const [key, cells] of Object.entries(change.set ?? {})) {
      let row = this.rows.get(key);
      if (!row) {
        row = this.template.content.firstElementChild.cloneNode(true);
        row.dataset.key = key;
        this.rows.set(key, row);
      }
      this.fill(row, cells, !full && row.isConnected);
    }
    if (!change.order) return;
    this.wanted = change.order;
    const there = new Set(change.order);
    for (const [key, row] of this.rows) row.classList.toggle("gone", !there.has(key));
    if (!this.busy()) this.settle();
    else if (this.button && this.moved()) this.button.hidden = false;
  }

  fill(row, cells, known) {
    let places = this.cells.get(row);
    if (!places) {
      places = new Map([["row", row]]);
      for (const each of row.querySelectorAll("[data-c]")) places.set(each.dataset.c, each);
      this.cells.set(row, places);
    }
    const state = places.get("state");
    const before = state?.textContent;
    for (const [name, value] of Object.entries(cells)) {
      const element = places.get(name);
      if (element) apply(element, value);
    }
    if (known && state && before !== state.textContent) {
      row.classList.remove("changed");
      void row.offsetWidth;
      row.classList.add("changed");
      this.announce(`${places.get("name")?.textContent ?? ""} is ${state.textContent}`);
    }
  }

  hovered() {
    return this.container.matches(":hover") || Boolean(this.button?.matches(":hover"));
  }

  /**
   * Whether somebody points at a row, or at the button for it, or has the keyboard in a row; also
   * when what is above the rows grew, and they are no longer where the pointer was left.
   */
  busy() {
    const pointed = this.pointed || this.hovered();
    const focus = document.activeElement;
    // what was clicked keeps the focus and is not meant to be stayed with
    const typed = this.container.contains(focus) && focus.matches(":focus-visible");
    return this.box !== null && (pointed || typed);
  }

  moved() {
    const now = [...this.container.children].map((row) => row.dataset.key);
    return now.join("\n") !== this.wanted.join("\n");
  }

  /** Put the rows into the order that is wanted, moving only those that are elsewhere. */
  settle() {
    this.pointed = false;
    if (this.button) this.button.hidden = true;
    if (!this.wanted) return;
    const there = new Set(this.wanted);
    for (const [key, row] of this.rows) {
      if (there.has(key)) continue;
      row.remove();
      this.rows.delete(key);
    }
    let at = this.container.firstElementChild;
    for (const key of this.wanted) {
      const row = this.rows.get(key);
      if (!row) continue;
      if (row === at) at = at.nextElementSibling;
      else this.container.insertBefore(row, at);
    }
    this.wanted = null;
  }
}

/** Keeps the page as the server has it, through restarts of the server. */
export class Stream {
  constructor(address, { announce, onState }) {
    this.address = address;
    this.onState = onState;
    this.heard = Date.now();
    this.failures = 0;
    this.number = 0;
    this.values = new Map();
    for (const each of document.querySelectorAll("[data-v]")) this.values.set(each.dataset.v, each);
    this.lists = new Map();
    for (const container of document.querySelectorAll("[data-list]")) {
      const name = container.dataset.list;
      const template = document.querySelector(`template[data-for="${name}"]`);
      this.lists.set(name, new List(container, template, announce));
    }
    setInterval(() => this.watch(), 1000);
    document.addEventListener("visibilitychange", () => this.look());
    this.open();
  }

  /** A tab that nobody sees needs no stream: it catches up when it is looked at again. */
  look() {
    if (document.hidden) this.close();
    else if (!this.source && !this.timer) this.open();
  }

  open() {
    this.timer = 0;
    this.close();
    this.number = 0;
    this.source = new EventSource(this.address);
    this.source.onmessage = (event) => this.hear(JSON.parse(event.data));
    this.source.onerror = () => this.again();
  }

  close() {
    this.source?.close();
    this.source = null;
  }

  again() {
    this.close();
    if (this.timer) return;
    const wait = RETRY_MS[Math.min(this.failures, RETRY_MS.length - 1)];
    this.failures += 1;
    this.timer = setTimeout(() => this.open(), wait * (0.75 + Math.random() / 2));
    if (this.failures > 1) this.askWhy();
  }

  /** The stream does not say why it is refused: perhaps the session is over. */
  async askWhy() {
    try {
      const answer = await fetch(this.address, { method: "HEAD", redirect: "manual" });
      if (answer.status === 401) this.onState({ loggedOut: true });
    } catch {
      // it is away
    }
  }

  hear(message) {
    this.heard = Date.now();
    this.failures = 0;
    if (message.version !== document.body.dataset.version) {
      location.reload();
      return;
    }
    if (!message.full && message.number !== this.number + 1) {
      this.open();
      return;
    }
    this.number = message.number;
    for (const [name, value] of Object.entries(message.values ?? {})) {
      const element = this.values.get(name);
      if (element) apply(element, value);
    }
    for (const [name, change] of Object.entries(message.lists ?? {})) {
      this.lists.get(name)?.change(change, message.full === true);
    }
    this.trouble = message.trouble;
    this.watch();
  }

  watch() {
    if (document.hidden) return;
    const silent = Date.now() - this.heard;
    if (silent > SILENCE_MS && this.source) this.again();
    this.onState({ staleMs: silent > SILENCE_MS || this.failures > 0 ? silent : 0, trouble: this.trouble });
  }
}
