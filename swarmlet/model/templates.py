"""Docker's templates: the part of Go's text/template that specs, secrets and configs use.

Fields of the task (``{{.Service.Name}}``), text and numbers; functions, pipelines, parentheses;
``if`` with ``else``; trimming and comments. What else Go has is refused when a template is read,
with its place. No message quotes the text: it may be a secret's.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

import msgspec

#: What a template computes with. A mapping is a service's labels.
Value: TypeAlias = str | int | bool | Mapping[str, str]

#: Looks something up by its name; None when it is not there.
Lookup: TypeAlias = Callable[[str], str | None]

#: Fields of a task, but for single labels.
LABELS: Final = ".Service.Labels"
FIELDS: Final = frozenset(
    {
        *(".Service.ID", ".Service.Name", LABELS),
        *(".Node.ID", ".Node.Hostname", ".Node.Platform.Architecture", ".Node.Platform.OS"),
        *(".Task.ID", ".Task.Name", ".Task.Slot"),
    }
)

#: Functions that only templates of secrets and configs have.
LOOKUPS: Final = frozenset({"env", "secret", "config"})

#: Levels of parentheses and of ``if``.
_DEPTH: Final = 20

_SPACE: Final = " \t\r\n"


class BadTemplate(ValueError):
    """A template cannot be read, or cannot be filled in. ``str`` says where and why."""

    def __init__(self, text: str, position: int, reason: str) -> None:
        line = text.count("\n", 0, position) + 1
        column = position - (text.rfind("\n", 0, position) + 1) + 1
        super().__init__(f"template, line {line}, column {column}: {reason}")


class Scope(msgspec.Struct, frozen=True):
    """What a template is filled in with: each of :data:`FIELDS`, and what functions look up."""

    fields: Mapping[str, Value]
    lookups: Mapping[str, Lookup] = {}


class _Unfit(Exception):
    """A function cannot take its arguments."""


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


#: A value that depends on the scope.
_Term: TypeAlias = Callable[[Scope], Value]

#: A piece of the result that depends on the scope.
_Piece: TypeAlias = Callable[[Scope], str]


def is_template(text: str) -> bool:
    """Whether there is anything to fill in."""
    return "{{" in text


class Template:
    """A template that was read. Raises BadTemplate for one that cannot be.

    ``lookups`` are those of :data:`LOOKUPS` that it may call.
    """

    def __init__(self, text: str, lookups: frozenset[str] = frozenset()) -> None:
        self._pieces = _Reader(text, lookups).read()

    def fill(self, scope: Scope) -> str:
        """Raise BadTemplate for what is not there."""
        return "".join(piece(scope) for piece in self._pieces)


# --- reading ------------------------------------------------------------------------------------

_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r\n]+)
      | (?P<text>"(?:[^"\\\n]|\\.)*")
      | (?P<raw>`[^`]*`)
      | (?P<number>[-+]?[0-9]{1,18}(?![\w.]))
      | (?P<field>(?:\.[A-Za-z_]\w*)+)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<mark>[|()])""",
    re.VERBOSE,
)

_COMMENT: Final = re.compile(r"[ \t\r\n]*/\*.*?\*/(?=[ \t\r\n]+-\}\}|\}\})", re.DOTALL)
_TRIMMED_END: Final = re.compile(r"[ \t\r\n]+-\}\}")

_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}

#: Words of one action: reading takes their square, and each of a pipeline nests in the next.
_TOKENS: Final = 200

_CONTROL: Final = frozenset({"if", "else", "end"})


class _Reader:
    def __init__(self, text: str, lookups: frozenset[str]) -> None:
        self._text = text
        self._lookups = lookups
        self._parts = self._split()

    def read(self) -> list[_Piece]:
        pieces, ended = self._body(0)
        if ended is not None:
            raise self._bad(ended[0], "there is no if that this belongs to")
        return pieces

    def _bad(self, at: _Token | int, reason: str) -> BadTemplate:
        return BadTemplate(self._text, at if isinstance(at, int) else at.position, reason)

    def _split(self) -> Iterator[str | list[_Token]]:
        """Text and actions in turn; an action is its tokens."""
        text, at, trim = self._text, 0, False
        while True:
            start = text.find("{{", at)
            piece = text[at:] if start < 0 else text[at:start]
            piece = piece.lstrip(_SPACE) if trim else piece
            trims_before = text[start + 2 : start + 3] == "-" and (
                text[start + 3 : start + 4] in tuple(_SPACE)
            )
            yield piece.rstrip(_SPACE) if trims_before and start >= 0 else piece
            if start < 0:
                return
            tokens, at, trim = self._action(start + 2 + trims_before)
            yield tokens

    def _action(self, at: int) -> tuple[list[_Token], int, bool]:
        """The tokens of an action, where it ends, and whether it trims what follows."""
        text, tokens, start = self._text, list[_Token](), at
        comment = _COMMENT.match(text, at)
        at = comment.end() if comment else at
        while True:
            if end := _TRIMMED_END.match(text, at):
                return tokens, end.end(), True
            if text.startswith("}}", at):
                return tokens, at + 2, False
            found = _TOKEN.match(text, at)
            if found is None or comment:
                if at >= len(text):
                    raise self._bad(start, "its }} is missing")
                raise self._bad(at, "this is not supported in templates")
            if found.lastgroup != "space":
                tokens.append(_Token(found.lastgroup or "", found[0], at))
            if len(tokens) > _TOKENS:
                raise self._bad(start, f"more than {_TOKENS} words in one action")
            at = found.end()

    def _body(self, depth: int) -> tuple[list[_Piece], list[_Token] | None]:
        """Pieces up to the ``else`` or ``end`` that belongs to another action, and that."""
        pieces: list[_Piece] = []
        for part in self._parts:
            if isinstance(part, str):
                pieces.append(_verbatim(part))
            elif part and part[0].text in {"else", "end"}:
                return pieces, part
            elif part and part[0].text == "if":
                pieces.append(self._condition(part, depth + 1))
            elif part:
                pieces.append(self._shown(part))
        return pieces, None

    def _condition(self, action: list[_Token], depth: int) -> _Piece:
        if depth > _DEPTH:
            raise self._bad(action[0], f"more than {_DEPTH} levels of if")
        asked = self._whole(action[1:], action[0])
        then, ended = self._body(depth)
        otherwise: list[_Piece] = []
        if ended is not None and ended[0].text == "else":
            if len(ended) > 1 and ended[1].text == "if":
                nested = self._condition(ended[1:], depth + 1)
                return _if(asked, then, [nested])
            self._alone(ended)
            otherwise, ended = self._body(depth)
        if ended is None or ended[0].text != "end":
            raise self._bad(action[0], "this if has no end")
        self._alone(ended)
        return _if(asked, then, otherwise)

    def _alone(self, action: list[_Token]) -> None:
        if len(action) > 1:
            raise self._bad(action[1], "nothing can follow here")

    def _shown(self, action: list[_Token]) -> _Piece:
        term = self._whole(action, action[0])
        return lambda scope: _show(term(scope))

    # An action's tokens, as a pipeline of calls.

    def _whole(self, tokens: Sequence[_Token], start: _Token) -> _Term:
        if not tokens:
            raise self._bad(start, "a value is needed")
        term, rest = self._pipeline(tokens, 0)
        if rest:
            raise self._bad(rest[0], "this parenthesis was not opened")
        return term

    def _pipeline(self, tokens: Sequence[_Token], depth: int) -> tuple[_Term, Sequence[_Token]]:
        """A pipeline, and what is left of the tokens from a closing parenthesis on."""
        piped: _Term | None = None
        while True:
            piped, tokens, last = self._command(tokens, piped, depth)
            if not tokens or tokens[0].text == ")":
                return piped, tokens
            if len(tokens) == 1:
                raise self._bad(last, "nothing follows the last |")
            tokens = tokens[1:]  # past the |

    def _command(
        self, tokens: Sequence[_Token], piped: _Term | None, depth: int
    ) -> tuple[_Term, Sequence[_Token], _Token]:
        head, rest = tokens[0], tokens[1:]
        arguments: list[_Term] = []
        calls = head.kind == "word" and head.text not in {"true", "false"}
        if not calls:
            term, rest = self._operand(tokens, depth)
            arguments.append(term)
        while rest and rest[0].text not in {"|", ")"}:
            if not calls:
                raise self._bad(rest[0], "only functions take arguments")
            term, rest = self._operand(rest, depth)
            arguments.append(term)
        if calls:
            given = arguments if piped is None else [*arguments, piped]
            return self._call(head, given), rest, head
        if piped is not None:
            raise self._bad(head, "only functions take what is piped")
        return arguments[0], rest, head

    def _operand(self, tokens: Sequence[_Token], depth: int) -> tuple[_Term, Sequence[_Token]]:
        token, rest = tokens[0], tokens[1:]
        if token.text == "(":
            if depth >= _DEPTH or not rest:
                raise self._bad(token, "this parenthesis is not closed, or one too deep")
            inner, after = self._pipeline(rest, depth + 1)
            if not after:
                raise self._bad(token, "this parenthesis is not closed")
            return inner, after[1:]
        if token.kind == "field":
            return self._field(token), rest
        return _constant(self._literal(token)), rest

    def _literal(self, token: _Token) -> str | int | bool:
        match token.kind:
            case "text":
                return self._unquoted(token)
            case "raw":
                return token.text[1:-1]
            case "number":
                return int(token.text)
            case "word" if token.text in {"true", "false"}:
                return token.text == "true"
            case "word":
                raise self._bad(token, "a call that is an argument needs parentheses")
            case _:
                raise self._bad(token, "a value is needed")

    def _unquoted(self, token: _Token) -> str:
        def meant(escape: re.Match[str]) -> str:
            if escape[1] not in _ESCAPES:
                raise self._bad(token, r"of escapes, only \n \t \r \" and \\ are supported")
            return _ESCAPES[escape[1]]

        return re.sub(r"\\(.)", meant, token.text[1:-1], flags=re.DOTALL)

    def _field(self, token: _Token) -> _Term:
        text, name = self._text, token.text
        if name in FIELDS:
            return lambda scope: scope.fields[name]
        parent, _, label = name.rpartition(".")
        if parent != LABELS:
            raise self._bad(token, f"there is no such field; there are {', '.join(sorted(FIELDS))}")

        def of_label(scope: Scope) -> Value:
            labels = scope.fields[LABELS]
            if isinstance(labels, Mapping) and label in labels:
                return labels[label]
            raise BadTemplate(text, token.position, "the service has no such label")

        return of_label

    def _call(self, token: _Token, arguments: Sequence[_Term]) -> _Term:
        text, name = self._text, token.text
        if name in self._lookups:
            return self._look_up(token, arguments)
        function = _FUNCTIONS.get(name)
        if function is None:
            known = ", ".join(sorted({*_FUNCTIONS, *self._lookups, "if"} - _CONTROL))
            raise self._bad(token, f"there is no such function here; there are {known} and if")

        def call(scope: Scope) -> Value:
            try:
                return function(*(argument(scope) for argument in arguments))
            except (_Unfit, TypeError) as exc:
                reason = f"{name} cannot take these arguments"
                raise BadTemplate(text, token.position, reason) from exc

        return call

    def _look_up(self, token: _Token, arguments: Sequence[_Term]) -> _Term:
        text, name = self._text, token.text
        if len(arguments) != 1:
            raise self._bad(token, f"{name} takes one argument")

        def look_up(scope: Scope) -> Value:
            wanted = arguments[0](scope)
            found = scope.lookups[name](wanted) if isinstance(wanted, str) else None
            if found is None:
                reason = f"the task has no {name} with this target"
                raise BadTemplate(text, token.position, reason)
            return found

        return look_up


def _verbatim(text: str) -> _Piece:
    return lambda _: text


def _constant(value: str | int | bool) -> _Term:  # noqa: FBT001
    return lambda _: value


def _if(asked: _Term, then: list[_Piece], otherwise: list[_Piece]) -> _Piece:
    def chosen(scope: Scope) -> str:
        pieces = then if asked(scope) else otherwise
        return "".join(piece(scope) for piece in pieces)

    return chosen


# --- functions ----------------------------------------------------------------------------------


def _show(value: Value) -> str:
    """A value as Go prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{key}:{value[key]}' for key in sorted(value))}]"
    return str(value)


def _and(first: Value, *others: Value) -> Value:
    for value in (first, *others):
        if not value:
            return value
    return others[-1] if others else first


def _or(first: Value, *others: Value) -> Value:
    for value in (first, *others):
        if value:
            return value
    return others[-1] if others else first


def _not(value: Value) -> bool:
    return not value


def _eq(first: Value, second: Value, *others: Value) -> bool:
    return any(type(first) is type(other) and first == other for other in (second, *others))


def _ne(first: Value, second: Value) -> bool:
    return not _eq(first, second)


def _index(mapping: Value, key: Value) -> str:
    if not isinstance(mapping, Mapping) or not isinstance(key, str):
        raise _Unfit
    return mapping.get(key, "")


def _join(separator: Value, *texts: Value) -> str:
    if not isinstance(separator, str) or not all(isinstance(text, str) for text in texts):
        raise _Unfit
    return separator.join(str(text) for text in texts)


def _print(*values: Value) -> str:
    """Go's Sprint: a space between two of which neither is text."""
    shown = ""
    for i, value in enumerate(values):
        apart = i > 0 and not isinstance(value, str) and not isinstance(values[i - 1], str)
        shown += f"{' ' if apart else ''}{_show(value)}"
    return shown


def _printf(form: Value, *values: Value) -> str:
    """Go's Sprintf, of which: %s %v %d %%."""
    if not isinstance(form, str):
        raise _Unfit
    left = list(values)

    def placed(verb: re.Match[str]) -> str:
        if verb[0] == "%%":
            return "%"
        if not left or (verb[0] == "%s" and not isinstance(left[0], str)):
            raise _Unfit
        if verb[0] == "%d" and (not isinstance(left[0], int) or isinstance(left[0], bool)):
            raise _Unfit
        if verb[0] not in {"%s", "%v", "%d"}:
            raise _Unfit
        return _show(left.pop(0))

    shown = re.sub(r"%.?", placed, form, flags=re.DOTALL)
    if left:
        raise _Unfit
    return shown


_FUNCTIONS: Final[dict[str, Callable[..., Value]]] = {
    "and": _and,
    "or": _or,
    "not": _not,
    "eq": _eq,
    "ne": _ne,
    "index": _index,
    "join": _join,
    "print": _print,
    "printf": _printf,
}
