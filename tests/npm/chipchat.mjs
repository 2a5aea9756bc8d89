// Drives the service with the package chipchat as it is on npm. Only its host and tokens are configured.
//
//   node chipchat.mjs SCENARIO
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const { PACKAGES, HOST, TOKEN, REFRESH_TOKEN, EMAIL, ORGANIZATION, OTHER_USER } = process.env;
const require = createRequire(`${PACKAGES}/`);
const ChipChat = require("chipchat");
assert.equal(require("chipchat/package.json").version, "0.7.4");

const UNKNOWN_ID = "5ee731deb306f000111815db";
const create = (options = {}) =>
  new ChipChat({ host: HOST, token: TOKEN, refreshToken: REFRESH_TOKEN, email: EMAIL, preloadBots: false, ...options });
/** Calls a method of the SDK with a callback. */
const withCallback = (call) =>
  new Promise((resolve, reject) => {
    const returned = call((error, body) => (error ? reject(error) : resolve(body)));
    assert.ok(!(returned instanceof Promise), "a call with a callback returns no promise");
  });
/** Returns the error with which a promise is rejected. */
const refusal = async (promise) => {
  const rejected = await promise.then(() => null, (error) => error);
  assert.ok(rejected, "the call succeeded");
  return rejected;
};
const texts = (messages) => messages.map((message) => message.text);

/** Every resource with its five methods, with promises and with callbacks. */
async function resources() {
  const bot = create();
  const bodies = {
    organizations: [{ name: "Acme" }, { displayName: "Acme Corp" }],
    orggroups: [{ name: "Friends" }, { description: "Who like each other" }],
    users: [{ email: "ada@example.com", givenName: "Ada" }, { familyName: "Lovelace" }],
    contacts: [{ profile: { telephone: "+43 1 234", email: "c@example.com" } }, { meta: { vip: true } }],
    conversations: [{ name: "Review", messages: [{ text: "start" }] }, { status: "open" }],
    kbitems: [{ title: "How to" }, { status: "published" }],
    forms: [{ name: "Case", fields: [{ name: "Case ID" }] }, { name: "Support case" }],
    services: [{ name: "SMS", type: "twilio" }, { url: "https://example.com/" }],
  };
  for (const [name, [body, change]] of Object.entries(bodies)) {
    const resource = bot[name];
    const created = await resource.create(body);
    const { id } = created;
    assert.deepEqual(await resource.get(id), created, name);
    const updated = await resource.update(id, change);
    const [field, value] = Object.entries(change)[0];
    assert.deepEqual(updated[field], value, name);
    const listed = await resource.list({ id });
    assert.deepEqual([...listed], [updated], name);
    assert.equal(listed.headers.totalCount, "1");
    const selected = await resource.get(id, { select: "createdAt" });
    assert.deepEqual(selected, { id, createdAt: created.createdAt }, name);
    assert.equal(await resource.delete(id), "", name);
    assert.equal((await refusal(resource.get(id))).statusCode, 404, name);

    const again = await withCallback((callback) => resource.create(body, callback));
    assert.notEqual(again.id, id);
    assert.equal((await withCallback((callback) => resource.get(again.id, callback))).id, again.id);
    const fields = await withCallback((callback) => resource.get(again.id, { select: "updatedAt" }, callback));
    assert.deepEqual(Object.keys(fields).sort(), ["id", "updatedAt"]);
    const changed = await withCallback((callback) => resource.update(again.id, change, callback));
    assert.deepEqual(changed[field], value, name);
    const found = await withCallback((callback) => resource.list({ id: again.id, limit: 5 }, callback));
    assert.equal(found[0].id, again.id);
    assert.equal(await withCallback((callback) => resource.delete(again.id, callback)), "");
  }
  const self = await bot.users.get(bot.auth.user);
  assert.equal(self.id, bot.auth._id);
}

/** What the SDK and its examples send as query strings. */
async function queries() {
  const bot = create();
  const contact = await bot.contacts.create({ profile: { telephone: "+43 1 234", name: "Grace" } });
  const conversation = await bot.conversations.create({
    name: "Review", status: "open", contact: contact.id, meta: { intent: "order", count: 5 },
    messages: [{ text: "Hello, 50% off" }],
  });
  const id = conversation.id;
  const ids = async (options) => (await bot.conversations.list(options)).map((found) => found.id);
  for (const options of [
    { id }, { name: "Review" }, { name: "~REV" }, { name: "^Rev" }, { status: "[open,closed]" }, { status: ["open", "closed"] },
    { status: "!closed" }, { meta: { intent: "order" } }, { "meta.count": ">=5" }, { createdAt: ">2020-09-14", sort: "-updatedAt" },
    { participants: { user: bot.auth.user } }, { participants: { user: bot.auth.user, active: true } },
    { orgPath: `^${ORGANIZATION}` }, { organization: ORGANIZATION, limit: 5 }, { contact: contact.id }, `status=open&id=${id}`, `?id=${id}`,
  ]) {
    assert.deepEqual(await ids(options), [id], JSON.stringify(options));
  }
  for (const options of [
    { name: "review" }, { status: "!open" }, { meta: { intent: "return" } }, { createdAt: "<2020-09-14" }, { "meta.count": ">5" },
    { updatedAt: ">=2020-09-14", orgPath: `^${ORGANIZATION}`, participants: { inbox: true }, select: "id, updatedAt, participants" },
  ]) {
    assert.deepEqual(await ids(options), [], JSON.stringify(options));
  }
  assert.equal((await bot.contacts.list({ "profile.telephone": "+43 1 234", organization: ORGANIZATION }))[0].id, contact.id);
  assert.deepEqual(texts(await bot.messages.list({ conversation: id, text: "~50% OFF" })), ["Hello, 50% off"]);

  const shaped = await bot.conversations.get(id, { select: "name, participants", populate: "contact, participants.user" });
  assert.deepEqual(Object.keys(shaped).sort(), ["contact", "id", "name", "participants"]);
  assert.equal(shaped.contact.profile.name, "Grace");
  assert.equal(shaped.participants[0].user.id, bot.auth.user);

  // Fields of the platform that this service does not store.
  const organization = await bot.organizations.get(ORGANIZATION, { select: "commands,displayName" });
  assert.deepEqual(Object.keys(organization).sort(), ["displayName", "id"]);
  const populated = await bot.organizations.get(ORGANIZATION, { populate: "categories.forms" });
  assert.deepEqual(populated, await bot.organizations.get(ORGANIZATION));
  for (const options of [{ select: "colours" }, { populate: "colours.forms" }, { colours: 1 }]) {
    assert.equal((await refusal(bot.organizations.get(ORGANIZATION, options))).statusCode, 400);
  }

  // The SDK fetches the organization of an incoming message with `populate: categories.forms`.
  const loading = create({ preloadOrganizations: true, ignoreSelf: false, ignoreBots: false });
  const received = new Promise((resolve, reject) => {
    loading.on("error", reject);
    loading.on("message", (message, context) => resolve(context));
  });
  loading.ingest({
    event: "message.create.contact.chat",
    data: {
      conversation: { id, organization: ORGANIZATION, meta: {} },
      message: { conversation: id, type: "chat", role: "contact", text: "Hello" },
    },
  });
  assert.deepEqual((await received).organization, populated);
}

/** Pages: all of them, one by one, and without. */
async function pages() {
  const messages = Array.from({ length: 30 }, (_, index) => ({ type: "chat", text: `hello, ${index + 1}` }));
  const requests = [];
  const counting = { fetchExtensions: { afterResponse: [(response) => { requests.push(response.url); return response; }] } };
  const bot = create(counting);
  const { id } = await bot.conversations.create({ name: "Pages", messages });
  const expected = texts(messages);
  const paged = async (api, options) => {
    requests.length = 0;
    return [texts(await api.messages.list({ conversation: id, text: "~hello, ", ...options })), requests.length];
  };
  assert.deepEqual(await paged(bot, {}), [expected, 1]);
  assert.deepEqual(await paged(bot, { pagination: { limit: 10 } }), [expected, 3]);
  assert.deepEqual(await paged(bot, { pagination: { limit: 7, countLimit: 20 } }), [expected.slice(0, 20), 3]);
  assert.deepEqual(await paged(bot, { pagination: { limit: 20, offset: 5 }, sort: "-createdAt" }), [expected.toReversed().slice(5), 2]);
  assert.deepEqual(await paged(create({ ...counting, pagination: { limit: 10 } }), {}), [expected, 3]);
  assert.deepEqual(await paged(bot, { type: ["chat", "note"], pagination: { limit: 16 } }), [expected, 2]);

  const iterated = [];
  for await (const message of bot.messages.list({ conversation: id, pagination: { iterate: true, limit: 8 } })) {
    iterated.push(message.text);
  }
  assert.deepEqual(iterated, expected);
  // With a callback, the SDK requests one page.
  const list = (callback) => bot.messages.list({ conversation: id, pagination: { limit: 4 } }, callback);
  assert.deepEqual(texts(await withCallback(list)), expected.slice(0, 4));
}

/** Sends messages, with promises and callbacks, alone and together. */
async function messages() {
  const bot = create();
  const { id } = await bot.conversations.create({ name: "Messages" });
  assert.equal((await bot.send(id, "one")).text, "one");
  assert.equal((await withCallback((callback) => bot.send(id, "two", callback))).text, "two");
  assert.equal((await bot.sendMessage(id, { text: "three", role: "agent" }, { isBackchannel: true })).isBackchannel, true);
  const context = await bot.conversation(id);
  assert.equal(context.name, "Messages");
  assert.equal((await context.say("four", { delay: 250 })).delay, 250);
  const reply = { text: "five", actions: [{ type: "reply", text: "Yes", payload: "YES" }] };
  assert.deepEqual((await withCallback((callback) => context.say(reply, callback))).actions, reply.actions);
  assert.deepEqual(texts(await context.say([{ text: "six" }, { text: "seven" }], { role: "bot" })), ["six", "seven"]);
  const created = await bot.messages.create({ conversation: id, text: "eight" });
  assert.equal(created.user, bot.auth.user);
  assert.equal((await bot.messages.update(created.id, { text: "nine" })).text, "nine");
  const all = await bot.messages.list({ conversation: id });
  // The clock of the test stands still, so that the order is that of the ids.
  assert.deepEqual(texts(all).sort(), ["one", "two", "three", "four", "five", "six", "seven", "nine"].sort());
  const fromContext = await bot.conversation(await bot.conversations.get(id));
  assert.equal((await fromContext.say("ten")).conversation, id);

  // Version 0.7.4 sends no body with its PUT, so the service has nothing to replace the message by.
  const refused = await refusal(bot.messages.replace(created.id, { text: "eleven" }));
  assert.equal(refused.statusCode, 400);
  assert.equal((await bot.messages.get(created.id)).text, "nine");
}

/** Commands: set, get, ask, assign, accept, join, leave. */
async function commands() {
  const answered = [];
  const bot = create({
    ignoreSelf: false,
    fetchExtensions: { afterResponse: [(response) => { answered.push(response); return response; }] },
  });
  const errors = [];
  bot.on("error", (error) => errors.push(error));
  const { id } = await bot.conversations.create({ name: "Commands" });
  const stored = () => bot.conversations.get(id);
  const own = async () => (await stored()).participants.find((participant) => participant.user === bot.auth.user);
  const context = await bot.conversation(id);

  const message = await context.set("mischa", "crazy");
  assert.deepEqual([message.type, message.text], ["command", "/set mischa crazy"]);
  assert.equal((await bot.conversation(id)).get("mischa"), "crazy");
  await context.set("my.status", "in progress");
  await context.set("step", 3);
  assert.deepEqual((await stored()).meta, { mischa: "crazy", "my.status": "in progress", step: "3" });
  await context.set("step");
  assert.deepEqual((await stored()).meta, { mischa: "crazy", "my.status": "in progress" });
  await context.set("@category", "sales");
  assert.equal((await bot.conversation(id)).get("@category"), "sales");

  await context.assign(OTHER_USER);
  await context.assign([OTHER_USER, bot.auth.user]);
  const inboxes = (await stored()).participants.map(({ user, inbox }) => [user, inbox]);
  assert.deepEqual(inboxes, [[bot.auth.user, true], [OTHER_USER, true]]);
  await context.join();
  await context.accept();
  assert.equal((await stored()).status, "active");
  assert.deepEqual(await own(), { user: bot.auth.user, role: null, active: true, accepted: true, inbox: false });
  await context.leave();
  assert.equal((await stored()).status, "closed");
  assert.equal((await own()).active, false);

  // A question stores the id of its message, and is answered by the next message of the contact.
  const ask = (question) => {
    const answer = context.ask(question);
    const isSet = () => answered.some(({ body }) => body.text?.startsWith(`/set _asked${bot.auth.user}`));
    const deliver = async () => {
      while (!isSet()) await new Promise((resolve) => setImmediate(resolve));
      const { meta } = await stored();
      const question = await bot.messages.get(meta[`_asked${bot.auth.user}`]);
      assert.equal(question.text, "What is your name?");
      bot.ingest({
        event: "message.create.contact.chat",
        data: {
          conversation: { id, organization: ORGANIZATION, meta },
          message: { conversation: id, type: "chat", role: "contact", text: "Ada" },
        },
      });
    };
    return Promise.all([answer, deliver()]);
  };
  const [answer] = await ask("What is your name?");
  assert.equal(answer.text, "Ada");

  // Several at once, as in the first messages of a new conversation.
  const list = await context.say([{ type: "command", text: "/accept" }, { text: "Hi" }, { type: "command", text: "/leave" }]);
  assert.deepEqual(texts(list), ["/accept", "Hi", "/leave"]);
  const created = await bot.conversations.create({ messages: [{ type: "command", text: "/accept" }, { text: "Welcome" }] });
  assert.equal(created.status, "active");

  assert.deepEqual(errors, []);
  for (const call of [
    () => context.notify("5a437eb33c64832bf93423f0"),
    () => context.assign(),
    () => bot.send(id, { type: "command", text: "/dance" }),
  ]) {
    assert.equal((await refusal(call())).statusCode, 400);
  }
}

/** Errors, as the SDK reports them. */
async function errors() {
  const bot = create();
  for (const refused of [
    await refusal(bot.send(UNKNOWN_ID, "hello")),
    await refusal(withCallback((callback) => bot.send(UNKNOWN_ID, "hello", callback))),
    await refusal(bot.conversation(UNKNOWN_ID)),
    await refusal(bot.conversations.get("none")),
  ]) {
    assert.deepEqual([refused.message, refused.statusCode], ["Conversation not found", 404]);
  }
  const invalid = await refusal(bot.forms.create({ names: "Case" }));
  assert.equal(invalid.statusCode, 400);
  assert.match(invalid.message, /names/);
  assert.deepEqual(invalid.response.body.errors.map((error) => error.field).sort(), ["name", "names"]);

  const unknown = [
    "bots", "botinstances", "channels", "partners", "workflows", "metrics", "points", "kbases", "articles", "files", "locations",
    "watemplates",
  ];
  for (const name of unknown) {
    const resource = bot[name];
    for (const call of [
      () => resource.list({ limit: 1 }),
      () => resource.list({ pagination: { limit: 1 } }),
      () => resource.get(UNKNOWN_ID),
      () => resource.create({ name: "a" }),
      () => resource.update(UNKNOWN_ID, { name: "a" }),
      () => resource.delete(UNKNOWN_ID),
    ]) {
      const refused = await refusal(call());
      assert.equal(refused.statusCode, 404, name);
      assert.equal(refused.response.body.code, "route_not_found", name);
      assert.equal(refused.message, refused.response.body.error.message, name);
    }
  }
}

/** An expired token: the SDK refreshes it and repeats the request. */
async function refresh() {
  const bot = create();
  const tokens = [];
  bot.on("token", (token) => tokens.push(token));
  const self = await bot.users.get(bot.auth.user);
  assert.equal(self.id, bot.auth.user);
  assert.equal(tokens.length, 1);
  assert.notEqual(tokens[0], TOKEN);
  assert.deepEqual([bot.auth.token === tokens[0], bot.auth.refreshToken === REFRESH_TOKEN], [true, false]);
  // The next requests use the new token; a POST works as well.
  const { id } = await bot.conversations.create({ name: "Refreshed" });
  assert.equal((await bot.send(id, "hello")).text, "hello");
  assert.equal(tokens.length, 1);
}

/** A token of another service: the SDK refreshes it as well. */
async function wrong_signature() {
  const [header, claims, signature] = TOKEN.split(".");
  const bot = create({ token: [header, claims, signature.split("").reverse().join("")].join(".") });
  assert.equal((await bot.users.get(bot.auth.user)).id, bot.auth.user);
}

/** An expired token and a wrong refresh token. */
async function refused_refresh() {
  const refused = await refusal(create({ refreshToken: "also invalid" }).users.get(OTHER_USER));
  // The SDK replaces its own message by that of the first response.
  assert.deepEqual([refused.message, refused.statusCode], ["jwt expired", 401]);
}

/** An expired token with the default status: the SDK reports it. */
async function expired() {
  const refused = await refusal(create().users.get(OTHER_USER));
  assert.deepEqual([refused.message, refused.statusCode], ["jwt expired", 403]);
}

const scenarios = { resources, queries, pages, messages, commands, errors, refresh, wrong_signature, refused_refresh, expired };
await scenarios[process.argv[2]]();
console.log("passed");
