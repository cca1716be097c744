"""Formats of strings as expressions in the library's syntax. Each allows nothing but its format, if not all of it."""

from __future__ import annotations

from collections.abc import Mapping

_LEAP_YEAR = (
    r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"  # by 4 and not 100, or by 400
)
_DATE = (
    r"(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_ZONE = r"(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_TIME = rf"(?:(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?{_ZONE})"  # without leap seconds
_HEX4 = "[0-9a-fA-F]{1,4}"
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"(?:(?:{_BYTE}\.){{3}}{_BYTE})"
_LAST32 = f"(?:{_HEX4}:{_HEX4}|{_IPV4})"
_IPV6 = "|".join(
    (
        f"(?:{_HEX4}:){{6}}{_LAST32}",
        f"::(?:{_HEX4}:){{5}}{_LAST32}",
        *(f"(?:(?:{_HEX4}:){{0,{n}}}{_HEX4})?::(?:{_HEX4}:){{{4 - n}}}{_LAST32}" for n in range(5)),
        f"(?:(?:{_HEX4}:){{0,5}}{_HEX4})?::{_HEX4}",
        f"(?:(?:{_HEX4}:){{0,6}}{_HEX4})?::",
    )
)
_LABEL = "[a-zA-Z0-9](?:-?[a-zA-Z0-9]){0,30}"  # at most 61 characters; no --, which belongs to punycode
_HOSTNAME = rf"{_LABEL}(?:\.{_LABEL}){{0,3}}"  # at most 247 characters
_ATOM = r"[a-zA-Z0-9!#$%&'*+\-/=?\^_`{|}~]{1,20}"
_PCHAR = r"(?:[a-zA-Z0-9\-._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})"
_USER = r"(?:(?:[a-zA-Z0-9\-._~!$&'()*+,;=:]|%[0-9a-fA-F]{2})*@)?"
_AUTHORITY = rf"{_USER}(?:{_HOSTNAME}|{_IPV4}|\[(?:{_IPV6})\])(?::[0-9]{{1,5}})?"
_PATHS = rf"//{_AUTHORITY}(?:/{_PCHAR}*)*|/(?:{_PCHAR}+(?:/{_PCHAR}*)*)?|{_PCHAR}+(?:/{_PCHAR}*)*"
# Narrower than `_reference` is: an authority is a host that there may be, and not empty.
_URI = rf"[a-zA-Z][a-zA-Z0-9+.\-]*:(?:{_PATHS})(?:\?(?:{_PCHAR}|[/?])*)?(?:\#(?:{_PCHAR}|[/?])*)?"
_UNICODE = (  # RFC 3987, ucschar
    r"\x{A0}-\x{D7FF}\x{F900}-\x{FDCF}\x{FDF0}-\x{FFEF}"
    + "".join(rf"\x{{{plane:X}0000}}-\x{{{plane:X}FFFD}}" for plane in range(1, 14))
    + r"\x{E1000}-\x{EFFFD}"
)
_PRIVATE = r"\x{E000}-\x{F8FF}\x{F0000}-\x{FFFFD}\x{100000}-\x{10FFFD}"


def _reference(more: str, in_query: str, *, is_relative: bool) -> str:
    """A URI or IRI: RFC 3986 or 3987, with what the latter allows `more`."""
    name = rf"(?:[a-zA-Z0-9\-._~!$&'()*+,;={more}]|%[0-9a-fA-F]{{2}})"
    character, no_colon = rf"(?:{name}|[:@])", f"(?:{name}|@)"
    literal = rf"\[(?:{_IPV6}|[vV][0-9a-fA-F]+\.[a-zA-Z0-9\-._~!$&'()*+,;=:]+)\]"
    authority = rf"(?:(?:{name}|:)*@)?(?:{literal}|{name}*)(?::[0-9]*)?"
    rooted = f"//{authority}(?:/{character}*)*|/(?:{character}+(?:/{character}*)*)?"
    scheme = "[a-zA-Z][a-zA-Z0-9+.\\-]*:"
    whole = f"{scheme}(?:{rooted}|{character}+(?:/{character}*)*)?"
    relative = f"|{rooted}|{no_colon}+(?:/{character}*)*|" if is_relative else ""
    query = rf"(?:\?(?:{character}|[/?{in_query}])*)?" if in_query else rf"(?:\?(?:{character}|[/?])*)?"
    return rf"(?:{whole}{relative}){query}(?:\#(?:{character}|[/?])*)?"


_VARIABLE = r"(?:[a-zA-Z0-9_]|%[0-9a-fA-F]{2})+(?:\.(?:[a-zA-Z0-9_]|%[0-9a-fA-F]{2})+)*(?::[1-9][0-9]{0,3}|\*)?"
_TEMPLATE_TEXT = rf"[!\#$&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~{_UNICODE}{_PRIVATE}]|%[0-9a-fA-F]{{2}}"
_POINTER = r"(?:/(?:[^~/]|~[01])*)*"
_DURATION_TIME = "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"

FORMATS: Mapping[str, str] = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}[tT]{_TIME}",
    "duration": (
        "P(?:[0-9]+W|(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)"
        f"(?:{_DURATION_TIME})?|{_DURATION_TIME})"
    ),
    "email": rf"{_ATOM}(?:\.{_ATOM}){{0,2}}@{_HOSTNAME}",
    "hostname": _HOSTNAME,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uuid": "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "uri": _URI,
    "uri-reference": _reference("", "", is_relative=True),
    "iri": _reference(_UNICODE, _PRIVATE, is_relative=False),
    "iri-reference": _reference(_UNICODE, _PRIVATE, is_relative=True),
    "uri-template": rf"(?:{_TEMPLATE_TEXT}|\{{[+\#./;?&]?{_VARIABLE}(?:,{_VARIABLE})*\}})*",
    "json-pointer": _POINTER,
    "relative-json-pointer": rf"(?:0|[1-9][0-9]*)(?:\#|{_POINTER})",
}
"""Sources: RFC 3339, RFC 5321, RFC 1123, RFC 4291, RFC 4122, RFC 3986, RFC 3987, RFC 6570, RFC 6901;
ISO 8601 as in RFC 3339, appendix A"""
