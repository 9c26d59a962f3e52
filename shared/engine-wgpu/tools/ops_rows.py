#!/usr/bin/env python3
"""Adds the rows that ops.toml lacks, with operator sets and element types from ONNX's own schemas.

Usage: cargo test -p engine-wgpu --lib check::table 2>&1 | python3 tools/ops_rows.py
Needs onnx==1.23.2. Rows that are there already are kept as they are, notes and all; rows come out sorted.
"""
import pathlib
import re
import sys
import tomllib

from onnx import defs

PATH = pathlib.Path(__file__).resolve().parent.parent / "ops.toml"
# Models older than operator set 7 broadcast differently and are ten years old.
OLDEST, NEWEST = 7, 28
GROUPS = {
    "float": ["float", "double", "float16", "bfloat16"],
    "int": ["int16", "int32", "int64", "uint16", "uint32", "uint64"],
    "byte": ["int8", "uint8"],
    "bool": ["bool"],
    "4bit": ["int4", "uint4"],
}
HEADER = """\
# The operators of the wgpu engine: the single source of its docs, refusals and tests.
#
# opsets: first and last operator set version that a model may import.
# runs: device; host = while planning, from shapes and constants, never from request data; host-node = on the host between
#   two plans, because the shape of the output depends on the data.
# types of the data: float = float32, and float16, bfloat16, float64 computed as float32; int = int32, and int16, int64,
#   uint16, uint32, uint64 held in 32 bits (range-checked where they enter); byte = int8, uint8; bool; 4bit = int4, uint4 weights.
# Keep it sorted: tools/ops_rows.py adds what is missing.
"""


def schemas():
    found = {}
    for schema in defs.get_all_schemas_with_history():
        found.setdefault((schema.domain or "ai.onnx", schema.name), []).append(schema)
    return found


def fresh(domain, op, runs, history):
    row = {"op": op, "domain": domain, "opsets": [1, 1], "runs": runs, "types": ["float"], "notes": ""}
    if not history:
        return row
    newest = max(history, key=lambda schema: schema.since_version)
    last_version = newest.since_version - 1 if newest.deprecated else NEWEST
    row["opsets"] = [max(OLDEST, min(schema.since_version for schema in history)), last_version]
    last = max((s for s in history if not s.deprecated), key=lambda s: s.since_version)
    ends = list(last.inputs) or list(last.outputs)
    names = set(ends[0].types) if ends else set()
    types = [group for group, members in GROUPS.items() if any(f"tensor({name})" in names for name in members)]
    row["types"] = types or ["float"]
    return row


def text(row):
    lines = ["[[operator]]", f'op = "{row["op"]}"', f'domain = "{row["domain"]}"', f"opsets = {row['opsets']}"]
    lines.append(f'runs = "{row["runs"]}"')
    lines.append("types = [" + ", ".join(f'"{name}"' for name in row["types"]) + "]")
    if row.get("notes"):
        lines.append(f'notes = "{row["notes"]}"')
    return "\n".join(lines) + "\n"


def main():
    rows = tomllib.loads(PATH.read_text()).get("operator", [])
    known = schemas()
    pattern = r'op = "(\w+)"\ndomain = "([\w.]+)"\nopsets = .*\nruns = "(\w+)"'
    for op, domain, runs in re.findall(pattern, sys.stdin.read()):
        if not any(row["op"] == op and row["domain"] == domain for row in rows):
            rows.append(fresh(domain, op, runs, known.get((domain, op), [])))
    rows.sort(key=lambda row: (row["domain"], row["op"]))
    PATH.write_text(HEADER + "\n" + "\n".join(text(row) for row in rows))
    print(f"{len(rows)} rows")


if __name__ == "__main__":
    main()
