// The client of the service: tokens, refresh, errors, and pages of lists.

/** The key of the tokens in the local storage, which all tabs share. */
const TOKENS = "cedargate.tokens";

/** An error response of the service (RFC 9457), or a failed connection. */
export class ApiError extends Error {
  constructor(problem, retryAfter) {
    super(problem.detail ?? "The service cannot be reached.");
    this.status = problem.status ?? 0;
    this.code = problem.code ?? "unreachable";
    this.errors = problem.errors ?? [];
    this.retryAfter = retryAfter;
  }
}

export class Api {
  /**
   * @param {string} base the address of the service
   * @param {() => void} onSignedOut called when the session has ended, in this tab or in another one
   */
  constructor(base, onSignedOut) {
    this.base = base;
    this.onSignedOut = onSignedOut;
    addEventListener("storage", (event) => {
      // Another tab signed out; `key` is null if the storage was cleared.
      if ((event.key === TOKENS || event.key === null) && !this.tokens) onSignedOut();
    });
  }

  get tokens() {
    return JSON.parse(localStorage.getItem(TOKENS));
  }

  set tokens(tokens) {
    if (tokens) localStorage.setItem(TOKENS, JSON.stringify(tokens));
    else localStorage.removeItem(TOKENS);
  }

  async signIn(email, password) {
    const { json } = await this.#send("/v2/auth/token", { body: { email, password } });
    this.#keep(json, email);
  }

  /** Ends this session. Works with an expired access token, too. */
  async signOut() {
    const { tokens } = this;
    this.tokens = null;
    if (tokens) await this.#send("/v2/auth/logout", { method: "POST", token: tokens.token });
  }

  /** Ends all sessions of the user. */
  async signOutEverywhere() {
    await this.request("/v2/users/me/sessions", { method: "DELETE" });
    await this.signOut();
  }

  /** Sends a request with the access token, and refreshes that if it has expired. */
  async request(path, options = {}) {
    const token = this.tokens?.token;
    try {
      return await this.#send(path, { ...options, token });
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.code === "token_expired" && (await this.#refresh(token))) {
        return await this.#send(path, { ...options, token: this.tokens.token });
      }
      // The session was ended: by a sign-out elsewhere, a new password, or an administrator.
      if (["token_expired", "invalid_token", "missing_token"].includes(error.code)) {
        this.tokens = null;
        this.onSignedOut();
      }
      throw error;
    }
  }

  /** Gets a page of a list: its items, their total, and the path of the next page if there is one. */
  async page(path) {
    const { json, headers } = await this.request(path);
    const next = headers.get("Link")?.match(/<([^>]+)>; rel="next"/)?.[1];
    const { pathname, search } = next ? new URL(next) : {};
    return { items: json, total: Number(headers.get("X-Total-Count")), next: next && pathname + search };
  }

  /**
   * Exchanges the refresh token, which is valid once. Only one tab at a time does so, and the others use its result. If the
   * response is lost, the same request within 30 seconds gets the same tokens.
   */
  async #refresh(expired) {
    return await navigator.locks.request(TOKENS, async () => {
      const tokens = this.tokens;
      if (!tokens) return false;
      if (tokens.token !== expired) return true;
      const body = { refreshToken: tokens.refreshToken, clientId: tokens.email };
      try {
        const { json } = await this.#send("/v2/auth/token", { body });
        this.#keep(json, tokens.email);
        return true;
      } catch (error) {
        if (error instanceof ApiError && error.status === 401) return false;
        throw error;
      }
    });
  }

  #keep({ token, refreshToken }, email) {
    this.tokens = { token, refreshToken, email };
  }

  /** Sends a request, and repeats it if the connection fails or the service is busy. */
  async #send(path, { method, body, token } = {}) {
    const headers = { Accept: "application/json" };
    if (token) headers.Authorization = `Bearer ${token}`;
    if (body) {
      headers["Content-Type"] = "application/json";
      // The same for every attempt, so that the service stores what is sent twice only once.
      if (token) headers["Idempotency-Key"] = crypto.randomUUID();
    }
    const options = { method: method ?? (body ? "POST" : "GET"), headers, body: body && JSON.stringify(body) };
    for (let attempt = 1; ; attempt += 1) {
      let wait = attempt;
      try {
        const response = await fetch(this.base + path, { ...options, cache: "no-store", credentials: "omit" });
        const text = await response.text();
        const json = text ? JSON.parse(text) : null;
        if (response.ok) return { json, headers: response.headers };
        wait = Number(response.headers.get("Retry-After")) || attempt;
        // An earlier attempt may still be executed.
        const isBusy = response.status === 503 || json?.code === "idempotency_in_progress";
        if (!isBusy || attempt === 3) throw new ApiError(json, wait);
      } catch (error) {
        if (error instanceof ApiError) throw error;
        if (attempt === 3) throw new ApiError({});
      }
      await new Promise((resolve) => setTimeout(resolve, Math.min(wait, 10) * 1000));
    }
  }
}
