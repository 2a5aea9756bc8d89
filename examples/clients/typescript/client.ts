// Logs in, creates a conversation with a message, and lists the conversations of the organization.
//
//   npm ci && npm run build
//   CEDARGATE=http://127.0.0.1:8080 EMAIL=admin@example.com PASSWORD=… npm start
import createClient from "openapi-fetch";
import type { paths } from "./api.js";

const { CEDARGATE = "http://127.0.0.1:8080", EMAIL = "", PASSWORD = "" } = process.env;
const client = createClient<paths>({ baseUrl: CEDARGATE });

const login = await client.POST("/v2/auth/token", { body: { email: EMAIL, password: PASSWORD } });
if (!login.data || !("token" in login.data)) throw new Error(JSON.stringify(login.error));
const { token } = login.data;
client.use({
  onRequest: ({ request }) => request.headers.set("Authorization", `Bearer ${token}`),
});

const created = await client.POST("/v2/conversations", {
  body: { name: "Opening hours", messages: [{ type: "text", text: "When do you open?" }] },
});
// An array in the body creates several, and the response is an array, too.
if (!created.data || Array.isArray(created.data)) throw new Error(JSON.stringify(created.error));
console.log("created", created.data.id);

const list = await client.GET("/v2/conversations", { params: { query: { sort: ["-createdAt"], limit: 10 } } });
if (!list.data) throw new Error(list.error.detail);
for (const conversation of list.data) console.log(conversation.id, conversation.name);
