// Filters as conditions of UCAST: npm install @ucast/core @ucast/js
import { CompoundCondition, FieldCondition } from "@ucast/core";
import { allInterpreters, createJsInterpreter } from "@ucast/js";

// Objects from a database have null for an absent value, which exists for the interpreter.
const exists = ({ field, value }, object, { get }) => ((get(object, field) ?? null) !== null) === value;
const interpret = createJsInterpreter({ ...allInterpreters, exists });

// JSON has no regular expressions.
const toCondition = ({ type, operator, field, value }) =>
  type === "compound"
    ? new CompoundCondition(operator, value.map(toCondition))
    : new FieldCondition(operator, field, operator === "regex" ? new RegExp(value) : value);

/** Returns whether the answer of POST /access/v1/filter permits an object. */
export function permits({ kind, filter }, object) {
  return kind === "when" ? interpret(toCondition(filter), object) : kind === "always";
}
