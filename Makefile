# `make test` brings what the tests need and runs all of them: first on SQLite, then over HTTP on PostgreSQL, then the contract.
# `make contract` holds the running service to its OpenAPI document, on SQLite.
# `make bench` prints how fast the service is, as ratios to a bare web server.
# `make generated` writes the files that are made from the code and the policies.

CARGO ?= cargo

.PHONY: test contract bench generated

test:
	tests/need nginx nginx
	tests/need openssl openssl
	tests/need curl curl
	$(CARGO) test --workspace --locked
	tests/with-postgres $(CARGO) test --locked --test it
	$(MAKE) contract

contract:
	CARGO=$(CARGO) tests/contract/run

bench:
	@command -v wrk >/dev/null || { \
	  [ "$$(id -u)" -eq 0 ] || { echo "wrk is needed: apt-get install wrk" >&2; exit 1; }; \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends wrk; }
	$(CARGO) build --release --locked
	$(CARGO) bench --locked --bench engine
	$(CARGO) bench --locked --bench http

generated:
	$(CARGO) run --quiet --locked -- openapi --output openapi/openapi.json
	$(CARGO) run --quiet --locked -- policy matrix
