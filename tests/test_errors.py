"""The tree of errors, and how their messages read."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lowhaio
from lowhaio import (
    HttpConnectionClosedError,
    HttpConnectionError,
    HttpConnectTimeoutError,
    HttpDataError,
    HttpDnsError,
    HttpError,
    HttpHeaderTooLong,
    HttpPoolClosedError,
    HttpProtocolError,
    HttpRedirectError,
    HttpRequestError,
    HttpTimeoutError,
    HttpTlsError,
)

TREE: dict[type[HttpError], tuple[type[BaseException], ...]] = {
    HttpError: (Exception,),
    HttpRequestError: (HttpError, ValueError),
    HttpPoolClosedError: (HttpError,),
    HttpRedirectError: (HttpError,),
    HttpConnectionError: (HttpError,),
    HttpDnsError: (HttpConnectionError,),
    HttpTlsError: (HttpConnectionError,),
    HttpConnectTimeoutError: (HttpConnectionError, TimeoutError),
    HttpDataError: (HttpError,),
    HttpConnectionClosedError: (HttpDataError,),
    HttpHeaderTooLong: (HttpDataError,),
    HttpProtocolError: (HttpDataError,),
    HttpTimeoutError: (HttpDataError, TimeoutError),
}


@pytest.mark.parametrize(('error', 'bases'), TREE.items(), ids=lambda value: getattr(value, '__name__', ''))
def test_error_stands_where_the_tree_says(error: type[HttpError], bases: tuple[type[BaseException], ...]) -> None:
    assert error.__bases__ == bases
    assert error.__doc__


def test_the_tree_is_whole_and_public() -> None:
    defined = {
        value for value in vars(lowhaio).values() if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert defined == set(TREE)
    assert {error.__name__ for error in TREE} <= set(lowhaio.__all__)


def test_whether_anything_was_sent_is_told_by_the_type() -> None:
    # A layer on top retries on the first branch whatever the request, on the second only what is idempotent.
    sent = {error for error in TREE if issubclass(error, HttpDataError)}
    not_sent = {error for error in TREE if issubclass(error, HttpConnectionError)}
    assert not sent & not_sent
    assert not {HttpRequestError, HttpPoolClosedError, HttpRedirectError} & (sent | not_sent)


def test_timeouts_are_caught_as_timeout_error() -> None:
    assert {error for error in TREE if issubclass(error, TimeoutError)} == {HttpTimeoutError, HttpConnectTimeoutError}


def messages(source: str) -> list[tuple[int, str]]:
    """The literal beginning of each message of an HttpError that is raised, and its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {error.__name__ for error in TREE}
            and node.args
        ):
            text = node.args[0]
            while isinstance(text, ast.BinOp):
                text = text.left
            if isinstance(text, ast.JoinedStr):
                text = text.values[0]
            if isinstance(text, ast.Constant):
                found.append((node.lineno, str(text.value)))
    return found


SOURCE = Path(lowhaio.__file__).read_text(encoding='utf-8')
ABOVE = SOURCE[: SOURCE.index('bytes only above, sockets below', SOURCE.index('# 6 Body framing'))]


def test_messages_about_octets_say_what_was_expected() -> None:
    assert len(messages(ABOVE)) > 40
    assert [found for found in messages(ABOVE) if not found[1].startswith('expected ')] == []


def test_messages_are_in_lower_case_and_no_sentences() -> None:
    assert len(messages(SOURCE)) > 60
    assert [found for found in messages(SOURCE) if found[1][:1] != found[1][:1].lower() or found[1].endswith('.')] == []
