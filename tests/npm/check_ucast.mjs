// Interprets the conditions of conditions.json on their rows, and compares the results with the decisions of the authorizer.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { permits } from "./ucast.mjs";

const samples = JSON.parse(readFileSync("conditions.json", "utf8"));
let [checked, allowed] = [0, 0];
for (const { condition, rows, expected, policies } of samples) {
  rows.forEach((row, index) => {
    const actual = permits({ kind: "when", filter: condition }, row);
    const context = () => JSON.stringify({ condition, row, policies }, null, 2);
    assert.equal(actual, expected[index], actual === expected[index] ? "" : context());
    checked += 1;
    allowed += actual ? 1 : 0;
  });
}
console.log(`${samples.length} conditions of UCAST interpreted on ${checked} rows, ${allowed} of them permitted`);
