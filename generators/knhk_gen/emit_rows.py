"""Where rows of a program lie: eight of one kernel side by side in a block, over values of the focus node (hot_c/include/knhk_tables.h)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from knhk_gen import table
from knhk_gen.emit_guards import ALL, FEW, KERNELS, Numbers, Program, Row
from knhk_gen.emit_terms import EmitError

BLOCK_KERNELS = KERNELS[:6]
VALUE_KERNELS = (*BLOCK_KERNELS, "in", "test", "pair")  # rows that look at one value of the focus node where it has no more
LANES, WINDOW = 8, 16
BUDGET_CYCLES = 8  # of one evaluation of a kernel: what R1 may cost
COSTED_AS = {"few": "ask_spo"}  # rows that are another kernel, several times over registers
Value = tuple[int, int]  # predicate, focus


@dataclass
class Layout:
    """Rows by kernel in their order, blocks of them, and the bit of each register of the program."""

    values: list[Value]
    nown: int
    order: list[list[int]] = field(default_factory=list)
    blocks: list[list[tuple[int, list[int]]]] = field(default_factory=list)  # per kernel: first value, rows
    rows_of: dict[Value, list[tuple[int, int]]] = field(default_factory=dict)  # kernel and number of row
    bit_of: dict[int, int] = field(default_factory=dict)
    fold_byte: int = 0
    nbyte: int = 0

    @property
    def value_of(self) -> dict[Value, int]:
        return {value: i for i, value in enumerate(self.values)}


def values_of(row: Row) -> tuple[Value, ...]:
    """The values that a row looks at: a pair has two."""
    p, focus, _, _, _, kernel, a, _, _ = row
    return ((p, focus), (a, focus)) if KERNELS[kernel] == "pair" else ((p, focus),)


def within_budget(kernel: str) -> None:
    """Raises EmitError when the committed cost table has no figure for a kernel, or one above what R1 may cost."""
    cycles = table.kernel_cycles().get(COSTED_AS.get(kernel, kernel))
    if cycles is None or cycles > BUDGET_CYCLES:
        raise EmitError(f"kernel {kernel}: kernel-cost.tsv says {cycles} cycles, must be at most {BUDGET_CYCLES}")


def lay_out(program: Program) -> Layout:
    """Blocks first, then the other rows, then folds; each part begins a byte."""
    for name, rows in zip(KERNELS, program.rows, strict=True):
        if rows and name in (*BLOCK_KERNELS, "unique"):
            within_budget(name)
    seen = {value for name in VALUE_KERNELS for row in program.rows[KERNELS.index(name)] for value in values_of(row)}
    values = sorted(seen, key=lambda value: (value[1], value[0]))
    laid = Layout(values, sum(focus == 0 for _, focus in values))
    number_of = laid.value_of
    for kernel, rows in enumerate(program.rows):
        numbers = {i: number_of.get((row[0], row[1]), 0) for i, row in enumerate(rows)}
        order = sorted(numbers, key=lambda i: numbers[i]) if KERNELS[kernel] in BLOCK_KERNELS else list(numbers)
        laid.order.append(order)
        if KERNELS[kernel] in VALUE_KERNELS:
            for i in order:
                for value in dict.fromkeys(values_of(rows[i])):
                    laid.rows_of.setdefault(value, []).append((kernel, i))
        if KERNELS[kernel] in BLOCK_KERNELS:
            laid.blocks.append(_blocks(order, numbers))
    _place(program, laid)
    return laid


def _blocks(order: Sequence[int], numbers: dict[int, int]) -> list[tuple[int, list[int]]]:
    """Up to eight rows each, whose values lie within a window that two registers hold."""
    made: list[tuple[int, list[int]]] = []
    for i in order:
        if not made or len(made[-1][1]) == LANES or numbers[i] - made[-1][0] >= WINDOW:
            made.append((numbers[i], []))
        made[-1][1].append(i)
    return made


def _place(program: Program, laid: Layout) -> None:
    byte = 0
    for kernel, blocks in enumerate(laid.blocks):
        for _, members in blocks:
            laid.bit_of.update({program.rows[kernel][i][4]: 8 * byte + lane for lane, i in enumerate(members)})
            byte += 1
    others = [row for kernel in range(len(BLOCK_KERNELS), len(KERNELS)) for row in program.rows[kernel]]
    laid.bit_of.update({row[4]: 8 * byte + i for i, row in enumerate(others)})
    laid.fold_byte = byte + -(-len(others) // LANES)
    laid.bit_of.update({fold[1]: 8 * laid.fold_byte + i for i, fold in enumerate(program.folds)})
    laid.nbyte = laid.fold_byte + -(-len(program.folds) // LANES)


def constants_of(row: Row, words: Sequence[int]) -> Numbers:
    """What a row of a block compares with; `words` are those of the pool."""
    _, _, _, kinds, _, kernel, a, b, c = row
    match KERNELS[kernel]:
        case "ask_spo":
            return (a,)
        case "compare":
            return (a, b)
        case "validate":
            return (a, b, kinds, c & 0xFFFFFFFF, c >> 32)
        case "few":
            return (*words[a : a + b], *[words[a]] * (FEW - b))
    return ()


def holds_with(row: Row, count: int) -> bool:
    """Whether a row of a block holds with no value; with one, for those that only count."""
    _, _, mode, _, _, kernel, low, high, _ = row
    match KERNELS[kernel]:
        case "count":
            return low <= count <= high
        case "ask_sp":
            return mode == ALL or count > 0
    return mode == ALL and count == 0
