// The page. All texts of the service are set as text, never as HTML.

import { Api, ApiError } from "./api.js";

const element = (id) => document.getElementById(id);
const api = new Api(document.querySelector("meta[name=cedargate]").content, showSignIn);

/** The open conversation. */
let current = null;
/** The pages that follow those that are shown. */
const next = { conversations: null, messages: null };
/** Which list is the latest, so that a slow response does not replace a later one. */
const latest = { conversations: 0, messages: 0 };

/** What people read for the codes that they can do something about. */
const MESSAGES = {
  invalid_credentials: "The email or the password is wrong.",
  forbidden: "Your role does not permit this.",
  not_found: "This no longer exists.",
  unreachable: "The service cannot be reached. Try again later.",
};

function showError(error) {
  if (!(error instanceof ApiError)) throw error;
  let text = MESSAGES[error.code] ?? error.message;
  if (error.status === 429) text = `Too many attempts. Try again in ${error.retryAfter} seconds.`;
  element("error").textContent = text;
  element("error").hidden = false;
}

/** Runs the action of a control, which is disabled meanwhile, and shows its error. */
async function run(control, action) {
  if (control?.disabled) return;
  element("error").hidden = true;
  if (control) control.disabled = true;
  try {
    await action();
  } catch (error) {
    showError(error);
  } finally {
    if (control) control.disabled = false;
  }
}

/** Runs an action when a form is submitted. */
function onSubmit(form, action) {
  element(form).addEventListener("submit", (event) => {
    event.preventDefault();
    run(event.target.querySelector("button:not([type])"), action);
  });
}

function onClick(button, action) {
  element(button).addEventListener("click", (event) => run(event.currentTarget, action));
}

function showSignIn() {
  current = null;
  for (const id of ["account", "app", "conversation"]) element(id).hidden = true;
  for (const id of ["conversations", "messages"]) element(id).replaceChildren();
  for (const id of ["user", "count", "name"]) element(id).textContent = "";
  element("text").value = "";
  element("filter").reset();
  element("sign-in").hidden = false;
  element("status").textContent = "You are signed out.";
  element("email").focus();
}

async function showApp() {
  const { json: user } = await api.request("/v2/users/me");
  element("user").textContent = user.name || user.email;
  element("sign-in").hidden = true;
  element("account").hidden = false;
  element("app").hidden = false;
  element("status").textContent = "";
  element("search").focus();
  await list();
}

/** A list item with a text and a small note. */
function item(text, note, inner = document.createElement("li")) {
  const small = document.createElement("small");
  small.textContent = note;
  inner.append(text, small);
  return inner;
}

const time = (text) => new Date(text).toLocaleString();

/** Adds a page to a list, or begins it anew, and returns the total. */
async function addPage(name, path, render, isFirst) {
  const number = isFirst ? ++latest[name] : latest[name];
  const page = await api.page(path);
  if (number !== latest[name]) return null;
  if (isFirst) element(name).replaceChildren();
  element(name).append(...page.items.map(render));
  next[name] = page.next;
  element(name === "messages" ? "earlier" : "more").hidden = !page.next;
  return page.total;
}

/** The path of the filtered list. */
function listPath() {
  const query = new URLSearchParams({ sort: "-updatedAt", limit: 10 });
  const text = element("search").value.trim();
  // `~` contains, ignoring case. The rest of the value is the text as it is.
  if (text) query.set("name", `~${text}`);
  if (element("state").value) query.set("status", element("state").value);
  return `/v2/conversations?${query}`;
}

async function list() {
  const total = await addPage("conversations", listPath(), conversationItem, true);
  if (total !== null) element("count").textContent = total === 1 ? "1 conversation" : `${total} conversations`;
}

function conversationItem(conversation) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.id = conversation.id;
  const note = [conversation.status, time(conversation.updatedAt)].filter(Boolean).join(" · ");
  item(conversation.name ?? "(no name)", note, button);
  button.addEventListener("click", () => run(button, () => open(conversation)));
  if (current?.id === conversation.id) button.setAttribute("aria-current", "true");
  const entry = document.createElement("li");
  entry.append(button);
  return entry;
}

async function open(conversation) {
  current = conversation;
  for (const button of element("conversations").querySelectorAll("button")) {
    button.toggleAttribute("aria-current", false);
    if (button.dataset.id === conversation.id) button.setAttribute("aria-current", "true");
  }
  element("name").textContent = conversation.name ?? "(no name)";
  element("messages").replaceChildren();
  element("earlier").hidden = true;
  element("conversation").hidden = false;
  element("name").focus();
  await listMessages();
}

async function listMessages() {
  const path = `/v2/conversations/${current.id}/messages?limit=50&total=false`;
  try {
    await addPage("messages", path, messageItem, true);
    element("unlisted").hidden = true;
  } catch (error) {
    // Who may write a message may not always list them: see the permission table.
    if (!(error instanceof ApiError && error.code === "forbidden")) throw error;
    element("unlisted").hidden = false;
  }
}

const messageItem = (message) => item(message.text, time(message.createdAt));

async function send() {
  const { id } = current;
  const body = { text: element("text").value };
  const { json: message } = await api.request(`/v2/conversations/${id}/messages`, { body });
  element("text").value = "";
  if (current?.id !== id) return;
  element("status").textContent = "The message was sent.";
  // After the last page, a new message is the next one.
  if (!next.messages) element("messages").append(messageItem(message));
  await list();
}

onSubmit("sign-in", async () => {
  try {
    await api.signIn(element("email").value, element("password").value);
  } finally {
    element("password").value = "";
  }
  await showApp();
});
onSubmit("filter", list);
onSubmit("send", send);
onClick("more", () => addPage("conversations", next.conversations, conversationItem, false));
onClick("earlier", () => addPage("messages", next.messages, messageItem, false));
onClick("sign-out", async () => {
  await api.signOut();
  showSignIn();
});
onClick("sign-out-everywhere", async () => {
  await api.signOutEverywhere();
  showSignIn();
});

if (api.tokens) await run(null, showApp);
else showSignIn();
