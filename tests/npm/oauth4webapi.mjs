// Drives the service with the library oauth4webapi: discovery, refresh, introspection and revocation.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const { PACKAGES, ISSUER, EMAIL, REFRESH_TOKEN, API_KEY } = process.env;
const require = createRequire(`${PACKAGES}/`);
const oauth = await import(pathToFileURL(require.resolve("oauth4webapi")));

const options = { [oauth.allowInsecureRequests]: true };
const issuer = new URL(ISSUER);
const discovery = await oauth.discoveryRequest(issuer, { ...options, algorithm: "oauth2" });
const server = await oauth.processDiscoveryResponse(issuer, discovery);
console.log("discovered");

const user = { client_id: EMAIL };
const refresh = (token) => oauth.refreshTokenGrantRequest(server, user, oauth.None(), token, options);
const tokens = await oauth.processRefreshTokenResponse(server, user, await refresh(REFRESH_TOKEN));
console.log("refreshed", tokens.scope);

const service = { client_id: "service" };
const secret = oauth.ClientSecretBasic(API_KEY);
const introspect = async () => {
  const response = await oauth.introspectionRequest(server, service, secret, tokens.access_token, options);
  return (await oauth.processIntrospectionResponse(server, service, response)).active ? "active" : "inactive";
};
console.log(await introspect());
const revocation = await oauth.revocationRequest(server, service, secret, tokens.refresh_token, options);
await oauth.processRevocationResponse(revocation);
console.log("revoked");
console.log(await introspect());

try {
  await oauth.processRefreshTokenResponse(server, user, await refresh(tokens.refresh_token));
} catch (error) {
  console.log(error.error);
}
