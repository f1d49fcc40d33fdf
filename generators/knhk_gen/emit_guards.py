"""Guards of class R1 as rows: kernels over the values of a predicate, folds over registers (formats/guardplan.md, E and V)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from knhk.model.canonical import canonical
from knhk_gen import emit_terms as terms
from knhk_gen.emit_terms import EmitError, Lanes, Strings

# order of kernels, tests, folds and relations as in hot_c/include/knhk_tables.h
KERNELS = ("ask_sp", "ask_spo", "count", "compare", "validate", "few", "unique", "in", "test", "pair", "closed", "within")
TESTS = ("validate", "range", "in", "eq", "ne", "lang", "const", "and", "or", "andnot", "not", "clock")
FOLDS = ("and", "or", "andnot", "not", "const")
RELATIONS = {
    "equals": 0, "disjoint": 1, "lessThan": 2, "lt": 2, "lessThanOrEquals": 3, "le": 3, "gt": 4, "ge": 5, "eq": 6, "ne": 7,
}  # fmt: skip
ALL, SOME = 0, 1
FEW = 4  # terms of a list that a block compares with
SELF = 0xFFFFFFFF
MASKS_MAX = 256
SECOND = 10**6  # in units of the dateTime family
WEEK = 7 * 86400 * SECOND
CLOCK_ORIGIN = (terms.BIAS // WEEK + 1) * WEEK - terms.BIAS + 3 * 86400 * SECOND
"""Makes a biased dateTime lane a count of microseconds from some Monday, 00:00, never negative; 1970-01-01 was a Thursday."""
ANY_LENGTH = terms.LENGTH_MAX << 32
COUNT_MAX = (1 << 32) - 1
FIXED_MAX = 0xFFFE
TARGET_CLASS, TARGET_NODE, TARGET_SUBJECTS_OF = 0, 1, 2
PROGRAM_GUARDS, PROGRAM_FORALL, PROGRAM_UNIQUE, PROGRAM_CONSTRUCT = 0, 1, 2, 3
MAKE_TERM, MAKE_THIS, MAKE_VALUES = 0, 1, 2

Row = tuple[int, int, int, int, int, int, int, int, int]  # p focus mode kinds out kernel a b c
Numbers = tuple[int, ...]


@dataclass
class Pool:
    """u64 words shared by all tables; equal sequences once."""

    words: list[int] = field(default_factory=list)
    known: dict[Numbers, int] = field(default_factory=dict)

    def at(self, numbers: Sequence[int]) -> int:
        key = tuple(numbers)
        if key not in self.known:
            self.known[key] = len(self.words)
            self.words.extend(key)
        return self.known[key]


@dataclass
class Program:
    """Rows and folds over one focus node. A register ≥ 0 is local, -1-g is global g."""

    kind: int
    target: int
    rows: list[list[Row]] = field(default_factory=lambda: [[] for _ in KERNELS])
    folds: list[tuple[int, int, int, int]] = field(default_factory=list)
    outputs: list[tuple[int, int]] = field(default_factory=list)
    makes: list[Numbers] = field(default_factory=list)  # CONSTRUCT: subject p kind, row of the values, term
    guard: int = 0  # CONSTRUCT
    result: int = 0  # FORALL: register of the argument; UNIQUE: predicate
    minimum: int = 0
    result_global: int = 0
    nregs: int = 0
    known_rows: dict[Row, int] = field(default_factory=dict)
    known_folds: dict[tuple[int, int, int], int] = field(default_factory=dict)

    def row(self, kernel: str, p: int, focus: int, mode: int, kinds: int, abc: tuple[int, int, int]) -> int:
        """The register of a row; equal rows share one."""
        key = (p, focus, mode, kinds, 0, KERNELS.index(kernel), *abc)
        if key not in self.known_rows:
            self.known_rows[key] = self.nregs
            self.rows[key[5]].append((p, focus, mode, kinds, self.nregs, key[5], *abc))
            self.nregs += 1
        return self.known_rows[key]

    def fold(self, op: str, x: int, y: int = 0) -> int:
        key = (FOLDS.index(op), x, y)
        if key not in self.known_folds:
            self.known_folds[key] = self.nregs
            self.folds.append((key[0], self.nregs, x, y))
            self.nregs += 1
        return self.known_folds[key]

    def all_of(self, op: str, regs: Sequence[int]) -> int:
        """and, or, xone of registers."""
        if not regs:
            return self.fold("const", 1 if op == "and" else 0)
        if op == "xone":
            return self._exactly_one(regs)
        result = regs[0]
        for reg in regs[1:]:
            result = self.fold(op, result, reg)
        return result

    def _exactly_one(self, regs: Sequence[int]) -> int:
        seen, many = regs[0], self.fold("const", 0)
        for reg in regs[1:]:
            many = self.fold("or", many, self.fold("and", seen, reg))
            seen = self.fold("or", seen, reg)
        return self.fold("andnot", seen, many)


def range_words(test: Mapping[str, Any]) -> tuple[int, int]:
    """Lowest and highest value lane of a `range` test; bounds outside the family's room never match or always do."""
    family = terms.FAMILIES[test["family"]] << 60
    low = 0 if test.get("min") is None else test["min"] + terms.BIAS
    high = 2 * terms.BIAS - 1 if test.get("max") is None else test["max"] + terms.BIAS
    if low >= 2 * terms.BIAS or high < 0 or low > high:
        return family | 1, family
    return family | max(low, 0), family | min(high, 2 * terms.BIAS - 1)


ALWAYS = -1  # target of guards whose focus nodes R1 cannot tell
REQUEST: Numbers = (TARGET_NODE, 0, 0, 0)


@dataclass
class Guards:
    """Collects targets, programs and tests of a plan."""

    plan: Mapping[str, Any]
    strings: Strings
    pool: Pool
    fixed: list[Lanes] = field(default_factory=list)
    fixed_of: dict[int, int] = field(default_factory=dict)
    closed: list[Numbers] = field(default_factory=list)  # allowed predicates; a bit set once all strings are known
    tests: list[Numbers] = field(default_factory=list)
    known_tests: dict[bytes, tuple[int, int, int]] = field(default_factory=dict)
    globals: list[Program] = field(default_factory=list)
    known_globals: dict[bytes, int] = field(default_factory=dict)
    programs: dict[int, Program] = field(default_factory=dict)
    targets: dict[int, Numbers] = field(default_factory=dict)
    regs_of: dict[int, list[tuple[Program, int, int]]] = field(default_factory=dict)
    constructs: list[Program] = field(default_factory=list)

    def __post_init__(self) -> None:
        for iri in (terms.KNHK + "request", terms.KNHK + "caller", *self.plan["bundle"]["subjects"]):
            self.fixed_node({"k": "iri", "v": iri})

    # -- nodes and targets --

    def fixed_node(self, term: Mapping[str, Any]) -> int:
        """Index of a node that every Δ has."""
        lanes = self.strings.term(term)
        if lanes.term not in self.fixed_of:
            if len(self.fixed) >= FIXED_MAX:
                raise EmitError("more constant nodes than a pack can hold")
            self.fixed_of[lanes.term] = len(self.fixed)
            self.fixed.append(lanes)
        return self.fixed_of[lanes.term]

    def iri(self, iri: str) -> int:
        return self.strings.lanes(terms.IRI, "", iri).term

    def target(self, index: int) -> int:
        """Notes that a target is used by R1 guards."""
        if index not in self.targets:
            self.targets[index] = REQUEST if index == ALWAYS else self._target(self.plan["targets"][index])
        return index

    def _target(self, target: Mapping[str, Any]) -> Numbers:
        match target["kind"]:
            case "class":
                classes = sorted(self.iri(iri) for iri in target["classes"])
                return (TARGET_CLASS, 0, self.pool.at(classes), len(classes))
            case "node":
                return (TARGET_NODE, self.fixed_node(target["node"]), 0, 0)
            case "subjectsOf":
                return (TARGET_SUBJECTS_OF, self.strings.id(target["predicate"]), 0, 0)
            case "request":
                return REQUEST
        raise EmitError(f"target kind {target['kind']!r} is not R1")

    # -- guards --

    def add(self, number: int, guard: Mapping[str, Any]) -> None:
        target = self.target(guard["target"])
        program = self.programs.setdefault(target, Program(PROGRAM_GUARDS, target))
        first = {kernel: len(rows) for kernel, rows in zip(KERNELS, program.rows, strict=True)}
        register = self.expr(program, guard["expr"], 0)
        if register < 0:  # of a global: an output has a register of its program
            register = program.fold("and", register, register)
        program.outputs.append((number, register))
        witnesses = [
            (program, KERNELS.index(kernel), i)
            for kernel in ("compare", "validate", "ask_spo", "few", "in", "test", "closed", "pair", "within")
            for i in range(first[kernel], len(program.rows[KERNELS.index(kernel)]))
        ]
        self.regs_of[number] = witnesses or self._shared_witness(program, register)

    def construct(self, number: int, guard: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]) -> None:
        """One program for each case: where its condition holds, its triples are made."""
        for case in cases:
            program = Program(PROGRAM_CONSTRUCT, self.target(guard["target"]), guard=number)
            program.result = self.expr(program, case["when"], 0)
            program.makes = [self._make(triple) for triple in case["triples"]]
            self.constructs.append(program)

    def _make(self, triple: Mapping[str, Any]) -> Numbers:
        def node(term: Mapping[str, Any]) -> int:
            return 0 if "this" in term else self.fixed_node(term) + 1

        head, value = (node(triple["s"]), self.strings.id(triple["p"])), triple["o"]
        if "this" in value:
            return (*head, MAKE_THIS, 0, 0, 0, 0, 0, 0)
        if "of" not in value:
            return (*head, MAKE_TERM, 0, 0, 0, 0, 0, self.strings.term(value).term)
        first, count, mask = self.test_program(value["test"])
        return (*head, MAKE_VALUES, self.strings.id(value["p"]), node(value["of"]), first, count, mask, 0)

    def presence(self, guard: Mapping[str, Any]) -> dict[str, Any]:
        """What R1 asks of a guard of class W1 or C1: it "fails" where its target has a focus node, and then the tier below decides it."""
        kind = self.plan["targets"][guard["target"]]["kind"]
        target = guard["target"] if kind in ("class", "node", "subjectsOf", "request") else ALWAYS
        return {**guard, "target": target, "expr": {"op": "const", "value": False}}

    @staticmethod
    def _shared_witness(program: Program, register: int) -> list[tuple[Program, int, int]]:
        """The row behind a register that an earlier guard made."""
        return [(program, k, i) for k, rows in enumerate(program.rows) for i, row in enumerate(rows) if row[4] == register]

    # -- E --

    def expr(self, program: Program, expr: Mapping[str, Any], focus: int) -> int:
        """Register that holds the truth of E; `focus` 0 is the focus node, n the fixed node n-1."""
        handler = _EXPRS.get(expr["op"])
        if handler is None:
            raise EmitError(f"unknown expression {expr['op']!r}")
        return handler(self, program, expr, focus)

    def _count(self, program: Program, expr: Mapping[str, Any], focus: int) -> int:
        low, high = expr.get("min") or 0, expr.get("max")
        p = self.strings.id(expr["p"])
        if high is None and low == 0:
            return program.fold("const", 1)
        if high is None and low == 1:
            return program.row("ask_sp", p, focus, SOME, 0, (0, 0, 0))
        high = COUNT_MAX if high is None else min(high, COUNT_MAX)
        return program.row("count", p, focus, ALL, 0, (min(low, COUNT_MAX), high, 0))

    def _quantified(self, program: Program, expr: Mapping[str, Any], focus: int, mode: int) -> int:
        p = SELF if expr["op"] == "self" else self.strings.id(expr["p"])
        return self.quantified(program, expr["test"], p, focus, mode)

    def quantified(self, program: Program, test: Mapping[str, Any], p: int, focus: int, mode: int) -> int:
        """`all` of a conjunction is a conjunction of `all`: each part has its own kernel then."""
        if mode == ALL and test["t"] == "and":
            parts = [self.quantified(program, part, p, focus, mode) for part in test["args"]]
            return program.all_of("and", parts)
        kernel, kinds, abc = self.kernel(test)
        return program.row(kernel, p, focus, mode, kinds, abc)

    def kernel(self, test: Mapping[str, Any]) -> tuple[str, int, tuple[int, int, int]]:
        """The kernel that answers a test by itself, or a program of tests."""
        match test["t"]:
            case "kind" | "datatype" | "length":
                mask, want, kinds, length = self.validate(test)
                return "validate", kinds, (mask, want, length)
            case "range":
                return "compare", 0, (*range_words(test), 0)
            case "in" if len(test["terms"]) == 1:
                return "ask_spo", 0, (self.strings.term(test["terms"][0]).term, 0, 0)
            case "in":
                ids = sorted({self.strings.term(term).term for term in test["terms"]})
                return "few" if 1 <= len(ids) <= FEW else "in", 0, (self.pool.at(ids), len(ids), 0)
            case "value" if test["op"] == "eq" and (lanes := self.constant(test["term"])).value == 0:
                return "ask_spo", 0, (lanes.term, 0, 0)
        first, count, mask = self.test_program(test)
        reads_text = any(made[0] == TESTS.index("lang") for made in self.tests[first : first + count])
        return "test", int(reads_text), (first, count, mask)

    def constant(self, term: Mapping[str, Any]) -> Lanes:
        """A constant that values are compared with: it must be exact."""
        lanes = self.strings.term(term)
        if lanes.value >> 63:
            raise EmitError(f"constant {term.get('v')!r} has no exact scaled value: its guard is not R1")
        return lanes

    def _unique_lang(self, program: Program, expr: Mapping[str, Any], focus: int) -> int:
        return program.row("unique", self.strings.id(expr["p"]), focus, ALL, 0, (0, 0, 0))

    def _pair(self, program: Program, expr: Mapping[str, Any], focus: int) -> int:
        p = SELF if expr["p"] is None else self.strings.id(expr["p"])
        if p == SELF and expr["rel"] not in ("equals", "disjoint"):
            raise EmitError(f"pair {expr['rel']!r} needs a predicate")
        return program.row("pair", p, focus, ALL, RELATIONS[expr["rel"]], (self.strings.id(expr["q"]), 0, 0))

    def _within(self, program: Program, expr: Mapping[str, Any], focus: int) -> int:
        p, q = self.strings.id(expr["p"]), self.strings.id(expr["q"])
        other = self.fixed_node(expr["focus"]) + 1
        return program.row("within", p, focus, ALL, RELATIONS[expr["rel"]], (q, other, 0))

    def _closed(self, program: Program, expr: Mapping[str, Any], focus: int) -> int:
        allowed = tuple(sorted({self.strings.id(iri) for iri in expr["allowed"]}))
        if allowed not in self.closed:
            self.closed.append(allowed)
        return program.row("closed", 0, focus, ALL, 0, (self.closed.index(allowed), 0, 0))

    def _fold(self, program: Program, expr: Mapping[str, Any], focus: int) -> int:
        return program.all_of(expr["op"], [self.expr(program, arg, focus) for arg in expr["args"]])

    def _not(self, program: Program, expr: Mapping[str, Any], focus: int) -> int:
        return program.fold("not", self.expr(program, expr["arg"], focus))

    def _const(self, program: Program, expr: Mapping[str, Any], focus: int) -> int:
        return program.fold("const", int(bool(expr["value"])))

    def _on(self, program: Program, expr: Mapping[str, Any], focus: int) -> int:
        return self.expr(program, expr["arg"], self.fixed_node(expr["focus"]) + 1)

    def _global(self, key: object, make: Callable[[], Program]) -> int:
        name = canonical(key)
        if name not in self.known_globals:
            program = make()  # adds the globals that it needs first
            program.result_global = len(self.globals)
            self.known_globals[name] = program.result_global
            self.globals.append(program)
        return -1 - self.known_globals[name]

    def _forall(self, program: Program, expr: Mapping[str, Any], focus: int) -> int:
        def make() -> Program:
            inner = Program(PROGRAM_FORALL, self.target(expr["target"]), minimum=expr.get("min") or 0)
            inner.result = self.expr(inner, expr["arg"], 0)
            return inner

        return self._global(expr, make)

    def _unique(self, program: Program, expr: Mapping[str, Any], focus: int) -> int:
        def make() -> Program:
            return Program(PROGRAM_UNIQUE, program.target, result=self.strings.id(expr["p"]))

        return self._global({"target": program.target, **expr}, make)

    # -- V --

    def validate(self, test: Mapping[str, Any]) -> tuple[int, int, int, int]:
        """Mask, wanted bits, kinds and lengths of a test on the meta lane."""
        if test["t"] == "kind":
            bits = {"iri": terms.META_IRI, "bnode": terms.META_BNODE, "literal": terms.META_LITERAL}
            return 0, 0, sum({bits[kind] for kind in test["kinds"]}), ANY_LENGTH
        if test["t"] == "length":
            low = min(test.get("min") or 0, terms.LENGTH_MAX)
            high = test.get("max")
            high = terms.LENGTH_MAX if high is None else min(high, terms.LENGTH_MAX)
            return 0, 0, terms.META_IRI | terms.META_LITERAL, high << 32 | low
        mask = terms.DATATYPE_MASK | terms.META_VALID
        want = self.strings.id(test["iri"]) << 8 | terms.META_VALID
        return mask, want, terms.META_LITERAL, ANY_LENGTH

    def test_program(self, test: Mapping[str, Any]) -> tuple[int, int, int]:
        """First test, number of tests and mask of the result."""
        key = canonical(test)
        if key not in self.known_tests:
            made: list[Numbers] = []
            self._test(made, test, 0)
            self.known_tests[key] = (len(self.tests), len(made), 0)
            self.tests.extend(made)
        return self.known_tests[key]

    def _test(self, made: list[Numbers], test: Mapping[str, Any], dst: int) -> None:
        """Appends tests that leave the mask of `test` in dst and use masks above dst only."""
        if dst + 3 >= MASKS_MAX:
            raise EmitError("tests are nested too deeply")
        kind = test["t"]
        if kind in {"and", "or", "xone"}:
            self._joined(made, kind, test["args"], dst)
        elif kind == "not":
            self._test(made, test["arg"], dst)
            made.append((TESTS.index("not"), dst, dst, 0, 0, 0, 0, 0))
        else:
            made.append(self._leaf(test, dst))

    def _joined(self, made: list[Numbers], kind: str, args: Sequence[Mapping[str, Any]], dst: int) -> None:
        def op(name: str, to: int, x: int, y: int) -> None:
            made.append((TESTS.index(name), to, x, y, 0, 0, 0, 0))

        const = TESTS.index("const")
        if kind == "xone":
            seen, many, arg, both = dst, dst + 1, dst + 2, dst + 3
            made.append((const, seen, 0, 0, 0, 0, 0, 0))
            made.append((const, many, 0, 0, 0, 0, 0, 0))
            for each in args:
                self._test(made, each, arg)
                op("and", both, seen, arg)
                op("or", many, many, both)
                op("or", seen, seen, arg)
            op("andnot", dst, seen, many)
            return
        if not args:
            made.append((const, dst, 0, 0, 0, int(kind == "and"), 0, 0))
        for i, each in enumerate(args):
            self._test(made, each, dst if i == 0 else dst + 1)
            if i > 0:
                op(kind, dst, dst, dst + 1)

    def _leaf(self, test: Mapping[str, Any], dst: int) -> Numbers:
        kind = test["t"]
        if kind in {"kind", "datatype", "length"}:
            mask, want, kinds, length = self.validate(test)
            return (TESTS.index("validate"), dst, 0, 0, kinds, mask, want, length)
        if kind == "range":
            low, high = range_words(test)
            return (TESTS.index("range"), dst, 0, 0, 0, low, high, 0)
        if kind == "in":
            ids = sorted({self.strings.term(term).term for term in test["terms"]})
            return (TESTS.index("in"), dst, 0, 0, 0, self.pool.at(ids), len(ids), 0)
        if kind == "lang":
            ranges = [self.strings.id(tag.lower()) for tag in test["ranges"]]
            return (TESTS.index("lang"), dst, 0, 0, 0, self.pool.at(ranges), len(ranges), 0)
        if kind == "value":
            lanes = self.constant(test["term"])
            return (TESTS.index(test["op"]), dst, 0, 0, 0, lanes.term, lanes.value, lanes.meta)
        if kind == "clock":
            days = sum(1 << (day - 1) for day in test["days"])
            numbers = (test["from_s"] * SECOND, test["until_s"] * SECOND, CLOCK_ORIGIN + test["zone_s"] * SECOND)
            return (TESTS.index("clock"), dst, 0, 0, days, *numbers)
        if kind == "const":
            return (TESTS.index("const"), dst, 0, 0, 0, int(bool(test["value"])), 0, 0)
        raise EmitError(f"unknown test {kind!r}")


_EXPRS: Mapping[str, Callable[[Guards, Program, Mapping[str, Any], int], int]] = {
    "count": Guards._count,
    "all": lambda g, program, expr, focus: g._quantified(program, expr, focus, ALL),
    "some": lambda g, program, expr, focus: g._quantified(program, expr, focus, SOME),
    "self": lambda g, program, expr, focus: g._quantified(program, expr, focus, ALL),
    "uniqueLang": Guards._unique_lang,
    "unique": Guards._unique,
    "pair": Guards._pair,
    "within": Guards._within,
    "closed": Guards._closed,
    "and": Guards._fold,
    "or": Guards._fold,
    "xone": Guards._fold,
    "not": Guards._not,
    "const": Guards._const,
    "on": Guards._on,
    "forall": Guards._forall,
}
