# SPDX-License-Identifier: Apache-2.0
"""The command behind `make chaos`: runs the tables, keeps each result, prints what survived by kind.

Results are written to WORK/results.jsonl as they come; run again, the command does only missing and failed
cases (--again: all). The exit status is 1 if any case failed.
"""

import argparse
import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from chaos import chain, kinds
from chaos.runs import ROOT, TRACEBACK


def arguments():
    """The parsed command line."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "chaos")
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="cases whose name has it")
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--again", action="store_true", help="do again what was done")
    parser.add_argument("--jobs", type=int, default=2, help="cases at once")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    return parser.parse_args()


def perform(case, work):
    """Run one case; returns its row."""
    folder = work / "cases" / case.slug
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.time()
    try:
        wrong, output = case.run(folder)
    except Exception as error:  # an error in the case itself counts as a failure
        wrong, output = f"{type(error).__name__}: {error}", ""
    row = {"kind": case.kind, "name": case.name, "wrong": wrong, "seconds": round(time.time() - began, 1)}
    row["traceback"] = TRACEBACK in output
    if wrong:
        row["output"] = output[-3000:]
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return row


def known(file):
    """(kind, name) -> the newest row."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {(row["kind"], row["name"]): row for row in rows}


def table(rows):
    """`{kinds, fell, tracebacks, text}`."""
    by_kind = {}
    for row in rows:
        entry = by_kind.setdefault(row["kind"], {"cases": 0, "survived": 0, "tracebacks": 0, "seconds": 0.0})
        entry["cases"] += 1
        entry["survived"] += not row["wrong"]
        entry["tracebacks"] += row["traceback"]
        entry["seconds"] = round(entry["seconds"] + row["seconds"], 1)
    lines = ["| kind | cases | survived | tracebacks | seconds |", "|---|---|---|---|---|"]
    lines += [f"| {kind} | {' | '.join(str(v) for v in entry.values())} |" for kind, entry in by_kind.items()]
    fell = [row for row in rows if row["wrong"]]
    lines += ["", *(f"fell: {row['kind']}: {row['name']}: {row['wrong']}" for row in fell)]
    lines += [f"{len(rows) - len(fell)} of {len(rows)} survived"]
    return {"kinds": by_kind, "fell": fell, "text": "\n".join(lines)}


def main():
    """The command."""
    args = arguments()
    args.work = args.work.absolute()
    args.work.mkdir(parents=True, exist_ok=True)
    cases = [
        case
        for case in kinds.cases(args.work)
        if not args.only or any(word in f"{case.kind}: {case.name}" for word in args.only)
    ]
    if args.list:
        print("\n".join(f"{case.kind}: {case.name}" for case in cases))
        return
    file = args.work / "results.jsonl"
    rows = {} if args.again else known(file)
    waiting = [case for case in cases if rows.get((case.kind, case.name), {"wrong": True})["wrong"]]
    if waiting:
        chain.unbroken(args.work, max(case.stage for case in waiting))  # names of stages begin with a number
    with file.open("a") as out, ThreadPoolExecutor(args.jobs) as pool:
        jobs = [pool.submit(perform, case, args.work) for case in waiting]
        for count, job in enumerate(as_completed(jobs), 1):
            row = job.result()
            rows[row["kind"], row["name"]] = row
            print(json.dumps(row), file=out, flush=True)
            word = f"FELL: {row['wrong']}" if row["wrong"] else "survived"
            print(f"{count}/{len(waiting)} {row['kind']}: {row['name']}: {word} ({row['seconds']} s)",
                  file=sys.stderr, flush=True)  # fmt: skip
    summary = table([rows[case.kind, case.name] for case in cases])
    (args.work / "table.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary, indent=1) if args.json else summary["text"])
    sys.exit(1 if summary["fell"] or any(entry["tracebacks"] for entry in summary["kinds"].values()) else 0)


if __name__ == "__main__":
    main()
