"""Find words and sentence openings that make a text hard to read: ``python tests/plain_english.py``.

`make lint` runs it over the product, the guides and the documents. Exit code 1 and one line per finding: the place, the
words, and what to write instead. CONTRIBUTING.md has the whole style.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = ("tune_interpreg", "trainables", "analysis", "search_spaces", *(path.name for path in ROOT.glob("*.md")))
SUFFIXES = (".py", ".md", ".yaml", ".sh", ".html", ".j2")

#: Pattern → what to write instead.
RULES = {
    r"told|tells": "says, shows, reports (Optuna's tell is fine)",
    r"whence": "from where, therefore",
    r"anew": "again",
    r"beside": "next to",
    r"besides": "in addition to",
    r"wherein|whereby|thereof|thereby|therein|hitherto|lest": "a plain sentence",
    r"reckon\w*": "estimate, compute",
    r"upon": "on",
    r"of which|that which|by which": "two sentences",
    r"gone on with|goes on|go on|going on": "continue, resume",
    r"comes? to": "is, gives",
    r"rests? on": "depends on",
    r"mend(s|ed|ing)?": "fix",
    r"whose": "two sentences, or: with",
    r"sooner": "earlier",
    r"heard": "received",
}
PROSE = re.compile(rf"\b({'|'.join(RULES)})\b", re.IGNORECASE)
#: Names of variables, arguments and functions that say nothing; use a noun of the field.
VAGUE = {"one", "own", "known", "found", "told", "said", "held", "wanted", "seen", "kept", "taken", "another"}
#: Parts of lines that stored files or random streams depend on. They must not change.
FROZEN = ("found: bool = Field(", 'seeding.number(self.seed, "beside"')
OPENING = re.compile(r'("""|^\s*#:?\s)(What|Whether|Where)\b')


def findings(path: Path) -> Iterator[str]:
    """Yield one line per finding in a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    frozen = {number for number, line in enumerate(lines, start=1) if any(part in line for part in FROZEN)}
    for number, line in enumerate(lines, start=1):
        if number in frozen:
            continue
        place = f"{path.relative_to(ROOT)}:{number}"
        for match in PROSE.finditer(line):
            remedy = next(text for rule, text in RULES.items() if re.fullmatch(rule, match[0], re.IGNORECASE))
            yield f"{place}: '{match[0]}': write {remedy}"
        if path.suffix == ".py" and (match := OPENING.search(line)):
            yield f"{place}: '{match[2]} …': begin with a verb or a noun, such as 'Return the …'"
    if path.suffix == ".py":
        for number, name in sorted(vague_names(ast.parse("\n".join(lines)))):
            if number not in frozen:
                yield f"{path.relative_to(ROOT)}:{number}: name '{name}': use a noun of the field"


def vague_names(tree: ast.AST) -> set[tuple[int, str]]:
    """Return line and name of each variable, argument and function with a name in ``VAGUE``."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add((node.lineno, node.id))
        elif isinstance(node, ast.arg):
            names.add((node.lineno, node.arg))
        elif isinstance(node, ast.FunctionDef):
            names.add((node.lineno, node.name))
    return {(line, name) for line, name in names if name in VAGUE}


def files() -> Iterator[Path]:
    for place in map(ROOT.joinpath, PLACES):
        paths = [place] if place.is_file() else sorted(place.rglob("*"))
        yield from (path for path in paths if path.suffix in SUFFIXES and path.name != "CHANGELOG.md")


if __name__ == "__main__":
    lines = [line for path in files() for line in findings(path)]
    print("\n".join(lines))
    sys.exit(bool(lines))
