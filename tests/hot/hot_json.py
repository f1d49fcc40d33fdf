"""Bodies that are strict JSON of the right form, and others with where and what."""

from __future__ import annotations

from hot_plans import BLANK, a_map, mapping, path, plan, prop, ref

MAPS = (
    a_map("root", [], BLANK, prop("a", ref("a")), prop("link", ref("link", node="iri")), prop("deep", ref("deep", "er"))),
    a_map("line", path("lines", "*"), BLANK, prop("n", ref("n")), prop("tag", ref("tags", "*"))),
)
ALLOW = plan([], [mapping(*MAPS)])
DENY = plan([], [mapping(*MAPS, unknown="Deny", depth=4)])
GOOD = [
    b"{}", b' {"a":1}\r\n\t', b'{"a":null}', b'{"a":"x","lines":[]}', b'{"lines":null}', b'{"lines":[null,{"n":1}]}', b'{"a":-0.0e+10}',
    b'{"a":123456789012345678901234567890}', b'{"a":"\\ud83d\\ude00\\u0000"}', '{"a":"é€😀"}'.encode(), b'{"b":{"a":1},"c":{"a":2}}',
    b'{"link":"https://e.x/?q#f"}', b'{"link":null}', b'{"deep":{"er":true}}', b'{"deep":null}', b'{"":1,"x":{"":2}}',
]  # fmt: skip
BAD = {
    b"": ("", "empty"),
    b" ": ("byte", "well-formed"),
    b"nul": ("byte", "well-formed"),
    b"{}{}": ("byte 2", "well-formed"),
    b"{} x": ("byte 3", "well-formed"),
    b'{"a":1,}': ("byte", "well-formed"),
    b"{'a':1}": ("byte 1", "well-formed"),
    b'{"a":01}': ("byte", "well-formed"),
    b'{"a":+1}': ("byte", "well-formed"),
    b'{"a":.5}': ("byte", "well-formed"),
    b'{"a":1.}': ("byte", "well-formed"),
    b'{"a":1e}': ("byte", "well-formed"),
    b'{"a":NaN}': ("byte 5", "well-formed"),
    b'{"a":-Infinity}': ("byte", "well-formed"),
    b'{"a":"\x01"}': ("byte", "well-formed"),
    b'{"a":"\xff"}': ("byte", "well-formed"),
    b'{"a":"\xc0\x80"}': ("byte", "well-formed"),
    b'{"a":"\xed\xa0\x80"}': ("byte", "well-formed"),
    b'{"a":"\\ud800"}': ("byte", "well-formed"),
    b'{"a":"\\udc00\\ud800"}': ("byte", "well-formed"),
    b'{"a":"\\x41"}': ("byte", "well-formed"),
    b"\xef\xbb\xbf{}": ("byte 0", "well-formed"),
    b"/**/{}": ("byte 0", "well-formed"),
    b"{}\0": ("byte 2", "well-formed"),
    "{}".encode("utf-16"): ("byte 0", "well-formed"),
    b'{"a":1,"a":1}': ("", "distinct"),
    b'{"a":1,"\\u0061":2}': ("", "distinct"),
    b'{"z":[0,{"q":1,"q":2}]}': ("/z/1", "distinct"),
    b"[]": ("", "an object"),
    b'"x"': ("", "an object"),
    b'{"a":[1]}': ("/a", "string, number"),
    b'{"a":{"b":1}}': ("/a", "string, number"),
    b'{"lines":{}}': ("/lines", "an array"),
    b'{"lines":"x"}': ("/lines", "an array"),
    b'{"lines":[1]}': ("/lines/0", "an object"),
    b'{"lines":[{},{"n":[]}]}': ("/lines/1/n", "string, number"),
    b'{"deep":1}': ("/deep", "an object"),
    b'{"link":"no-scheme"}': ("/link", "absolute IRI"),
    b'{"link":"https://e.x/a b"}': ("/link", "absolute IRI"),
    b'{"link":"https://e.x/<x>"}': ("/link", "absolute IRI"),
    b'{"link":5}': ("/link", "absolute IRI"),
}
