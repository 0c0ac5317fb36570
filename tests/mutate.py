"""Make defects in the client, run the fast suite against each, and count survivors.

    python tests/mutate.py --count 40            # forty defects, drawn by seed 1
    python tests/mutate.py --count 200 --seed 7 --jobs 4
    python tests/mutate.py --only-lines 440-520  # defects there alone
    python tests/mutate.py --list --count 10     # show the defects, run nothing

A defect is one change in the syntax tree of sspi_client.py above its `# 8<` line: a
comparison is flipped, a constant is one more or one less, a statement is left out, two
arguments change places, `and` is `or`, a condition is negated, a slice is off by one.
Nothing here knows what the file says. A defect that no test notices is a survivor; it
is printed as a diff, and it is a missing test, or code that is not needed, or a change
that makes no difference.

Each runs in a copy of its own, with -x and a timeout (then it counts as noticed). What
stands behind -- is for pytest, such as --deselect for a test that fails anyway.
The exit status is 1 if there are survivors, 2 if the suite fails without a defect.
"""

import argparse
import ast
import concurrent.futures
import difflib
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NAME = "sspi_client.py"
FLIPS = {
    ast.Eq: "!=", ast.NotEq: "==", ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=",
    ast.GtE: ">", ast.Is: "is not", ast.IsNot: "is", ast.In: "not in",
    ast.NotIn: "in",
}  # fmt: skip
SYMBOLS = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">",
    ast.GtE: ">=", ast.Is: "is", ast.IsNot: "is not", ast.In: "in",
    ast.NotIn: "not in",
}  # fmt: skip
#: What a machine without Windows never runs, and what is for type checkers alone.
NOT_RUN = ("sys.platform == 'win32'", "TYPE_CHECKING", "__name__ == '__main__'")


class Defect(NamedTuple):
    kind: str
    line: int
    start: int  # offsets in the text of the file
    end: int
    text: str  # what stands there instead


# -- defects -------------------------------------------------------------------


class Finder(ast.NodeVisitor):
    """Collects every defect that can be made above the cut."""

    def __init__(self, source, last):
        self.source, self.last, self.found = source, last, []
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.lines = source.splitlines(keepends=True)
        self.visit(ast.parse(source))

    def visit(self, node):
        if getattr(node, "lineno", 1) >= self.last:
            return
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            for kept in node.body:  # annotations and decorators are not run again
                self.visit(kept)
            self.statements(node.body)
            return
        if isinstance(node, ast.If) and ast.unparse(node.test).startswith(NOT_RUN):
            for kept in node.orelse:
                self.visit(kept)
            self.statements(node.orelse)
            return
        super().visit(node)
        for body in ("body", "orelse", "finalbody"):
            if isinstance(getattr(node, body, None), list):
                self.statements(getattr(node, body))

    def statements(self, body):
        for node in body:
            simple = (ast.Assign, ast.AugAssign, ast.Expr, ast.Return, ast.Raise,
                      ast.Delete, ast.Continue, ast.Break)
            docstring = isinstance(node, ast.Expr) and isinstance(
                node.value, ast.Constant
            )
            if isinstance(node, simple) and not docstring and node.lineno < self.last:
                if not isinstance(node, ast.Assign) or node.col_offset:
                    self.add("statement left out", node, "pass")

    def visit_If(self, node):
        self.add("condition negated", node.test, f"not ({self.text(node.test)})")
        self.generic_visit(node)

    def visit_While(self, node):
        if not isinstance(node.test, ast.Constant):
            self.add("condition negated", node.test, f"not ({self.text(node.test)})")
        self.generic_visit(node)

    def visit_IfExp(self, node):
        self.add("condition negated", node.test, f"not ({self.text(node.test)})")
        self.generic_visit(node)

    def visit_AnnAssign(self, node):
        if node.value:
            self.visit(node.value)

    def visit_Compare(self, node):
        if len(node.ops) == 1 and type(node.ops[0]) in FLIPS:
            left, right = self.text(node.left), self.text(node.comparators[0])
            flipped = FLIPS[type(node.ops[0])]
            self.add("comparison flipped", node, f"{left} {flipped} {right}")
        self.generic_visit(node)

    def visit_BoolOp(self, node):
        word = " or " if isinstance(node.op, ast.And) else " and "
        values = [f"({self.text(value)})" for value in node.values]
        self.add("and for or", node, f"({word.join(values)})")
        self.generic_visit(node)

    def visit_Constant(self, node):
        if type(node.value) is int:
            for change in (1, -1):
                self.add("constant off by one", node, f"({node.value + change})")
        elif type(node.value) is bool:
            self.add("constant exchanged", node, str(not node.value))

    def visit_JoinedStr(self, node):
        return None  # its parts have no places of their own before 3.12

    def visit_Call(self, node):
        plain = not any(isinstance(a, ast.Starred) for a in node.args)
        if len(node.args) >= 2 and plain:
            first, second = node.args[:2]
            swapped = [self.text(second), self.text(first)]
            between = self.source[self.place(first)[1] : self.place(second)[0]]
            start, end = self.place(first)[0], self.place(second)[1]
            if swapped[0] != swapped[1]:
                self.put("arguments swapped", node, start, end, between.join(swapped))
        self.generic_visit(node)

    def visit_Slice(self, node):
        for bound in (node.lower, node.upper):
            if bound is not None:
                self.add("slice off by one", bound, f"({self.text(bound)}) + 1")
        self.generic_visit(node)

    def add(self, kind, node, text):
        self.put(kind, node, *self.place(node), text)

    def put(self, kind, node, start, end, text):
        if node.lineno < self.last and self.source[start:end] != text:
            self.found.append(Defect(kind, node.lineno, start, end, text))

    def text(self, node):
        start, end = self.place(node)
        return self.source[start:end]

    def place(self, node):
        """Return the offsets of a node; ast counts columns in UTF-8 bytes."""
        return (
            self._offset(node.lineno, node.col_offset),
            self._offset(node.end_lineno, node.end_col_offset),
        )

    def _offset(self, line, column):
        text = self.lines[line - 1].encode("utf-8")[:column].decode("utf-8")
        return self.starts[line - 1] + len(text)


def defects(source):
    """Return every defect that compiles, in the order of the file."""
    lines = source.splitlines()
    cut = (n for n, line in enumerate(lines, 1) if line.startswith("# 8<"))
    made = []
    for defect in Finder(source, next(cut, len(lines) + 1)).found:
        try:
            compile(changed(source, defect), NAME, "exec")
        except SyntaxError:
            continue
        made.append(defect)
    return made


def changed(source, defect):
    return source[: defect.start] + defect.text + source[defect.end :]


def diff(source, defect):
    pair = (text.splitlines() for text in (source, changed(source, defect)))
    lines = list(difflib.unified_diff(*pair, lineterm="", n=2))[2:]
    return "\n".join(lines)


# -- running -------------------------------------------------------------------


def notices(source, options):
    """Run the suite on *source* in a copy; return what noticed, "" if nothing did."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder, "copy")
        skipped = shutil.ignore_patterns(".git", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=skipped)
        (copy / NAME).write_text(source, encoding="utf-8")
        command = [
            sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", "--no-header",
            "-p", "no:cacheprovider", *options.pytest,
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, cwd=copy, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, universal_newlines=True,
                errors="replace", timeout=options.timeout,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "the timeout"
    if done.returncode == 0:
        return ""
    for line in done.stdout.splitlines():
        if line.startswith(("FAILED", "ERROR")):
            return line
    return f"exit status {done.returncode}"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=180, help="[s] for one run")
    parser.add_argument("--only-lines", metavar="FIRST-LAST", default="1-1000000")
    parser.add_argument("--list", action="store_true", help="show them, run nothing")
    parser.add_argument("pytest", nargs="*", help="for pytest, behind --")
    options = parser.parse_args(arguments)
    source = (ROOT / NAME).read_text(encoding="utf-8")
    first, last = (int(number) for number in options.only_lines.split("-"))
    possible = [d for d in defects(source) if first <= d.line <= last]
    count = min(options.count, len(possible))
    drawn = random.Random(options.seed).sample(possible, count)
    print(f"{len(possible):,} defects are possible, {count} drawn, seed {options.seed}")
    if options.list:
        for defect in drawn:
            print(f"\n{NAME}:{defect.line}: {defect.kind}\n{diff(source, defect)}")
        return 0
    found = notices(source, options)
    if found:
        print(f"the suite fails without a defect: {found}", file=sys.stderr)
        return 2
    survivors = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(notices, changed(source, d), options) for d in drawn]
        for defect, run in zip(drawn, runs):
            if not run.result():
                survivors += 1
                where = f"{NAME}:{defect.line}: {defect.kind}"
                print(f"\nSURVIVOR {where}\n{diff(source, defect)}", flush=True)
    print(f"\n{survivors} of {count} defects survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
