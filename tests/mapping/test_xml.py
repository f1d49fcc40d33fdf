"""XML: paths, namespaces, text; what is refused, and hostile bodies. Walked by expat inside the pack."""

from __future__ import annotations

import pytest
from mapped import Denied, binding, extract, faults, objects

from knhk_hot.fuzz_seeds import observation

TEXT = """format: xml
namespaces: {"": "urn:a", b: "urn:b"}
prefixes: {ex: "https://e.x/"}
maps:
  - id: item
    iterator: /Doc/Item
    subject: {template: "https://e.x/i/{@id}"}
    properties:
      ex:name: Name
      ex:second: "Name[2]"
      ex:amount: b:Amt
      ex:currency: "b:Amt/@Ccy"
      ex:any: "*:Any"
      ex:deep: "W/*/Leaf/text()"
      ex:part: {child: part}
      ex:peer: {join: part, on: {child: Ref, parent: "@k"}}
  - id: part
    iterator: /Doc/Item/Part
    subject: {template: "https://e.x/p/{.}"}
"""
OPEN = '<Doc xmlns="urn:a" xmlns:b="urn:b" xmlns:c="urn:c">'


def body(inside: str) -> bytes:
    return f"{OPEN}<Item id='1'>{inside}</Item></Doc>".encode()


CASES = {
    "text is what XML says": ("<Name>a&amp;&#x42;<![CDATA[<c>&]]><!-- no -->\r\nd</Name>", ['"a&B<c>&\\nd"']),
    "an empty element is an empty string": ("<Name/>", ['""']),
    "white space stays in a value": ("<Name> a </Name>", ['" a "']),
    "all elements of a name, and the second": ("<Name>1</Name><Name>2</Name>", ['"1"', '"2"', '"2"']),
    "namespaces count, prefixes do not": ("<x:Amt xmlns:x='urn:b' Ccy='EUR'>5</x:Amt>", ['"5"', '"EUR"']),
    "any namespace": ("<Any>1</Any><b:Any>2</b:Any><Any xmlns=''>3</Any>", ['"1"', '"2"', '"3"']),
    "any element": ("<W><X><Leaf>1</Leaf></X><c:Y><Leaf>2</Leaf></c:Y><b:Leaf><Leaf>3</Leaf></b:Leaf></W>", ['"1"', '"2"', '"3"']),
    "attributes are normalised as XML says": ("<b:Amt Ccy='a&#10;b\nc'>1</b:Amt>", ['"1"', '"a\\nb c"']),
    "children and joins": ("<Part k='x'>1</Part><Part k='y'>2</Part><Ref>y</Ref>", ["<https://e.x/p/1>", "<https://e.x/p/2>", "<https://e.x/p/2>"]),
    "hints of schemas, comments and instructions say nothing": (
        "<?pi x?><!-- c --><Name xmlns:i='http://www.w3.org/2001/XMLSchema-instance' i:schemaLocation='a b'>1</Name>",
        ['"1"'],
    ),
    "surrogate pairs as one character": ("<Name>\U0001f600&#x1F600;</Name>", ['"\U0001f600\U0001f600"']),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_xml_becomes(name: str) -> None:
    inside, wanted = CASES[name]
    found = objects(TEXT, body(inside))
    assert found == wanted


def test_no_item_no_triple() -> None:
    assert objects(TEXT, f"{OPEN}</Doc>".encode()) == []
    assert objects(TEXT, b"\xef\xbb\xbf" + f"<?xml version='1.0' encoding='Utf-8' standalone='yes'?>{OPEN}</Doc>".encode()) == []


BOMB = "<!DOCTYPE Doc [<!ENTITY a '" + "x" * 100 + "'>" + "".join(f"<!ENTITY a{i} '{'&a;' * 10}'>" for i in range(10)) + "]>"
WELL = "must be well-formed XML 1.0 with namespaces, in UTF-8"
REFUSED = {
    "billion laughs": (BOMB.encode() + body("<Name>&a9;</Name>"), "must have no document type declaration"),
    "quadratic blow-up": (
        b"<!DOCTYPE Doc [<!ENTITY a '" + b"x" * 50_000 + b"'>]>" + body("<Name>" + "&a;" * 50_000 + "</Name>"),
        "must have no document type declaration",
    ),
    "parameter entities": (
        b"<!DOCTYPE Doc [<!ENTITY % a '<!ENTITY b \"x\">'> %a; %a;]>" + body("<Name>&b;</Name>"),
        "must have no document type declaration",
    ),
    "an entity that holds itself": (
        b"<!DOCTYPE Doc [<!ENTITY a '&b;'><!ENTITY b '&a;'>]>" + body("<Name>&a;</Name>"),
        "must have no document type declaration",
    ),
    "an external subset by a parameter entity": (
        b"<!DOCTYPE Doc [<!ENTITY % a SYSTEM 'http://127.0.0.1:1/x.dtd'> %a;]>" + body(""),
        "must have no document type declaration",
    ),
    "attributes by declaration": (b"<!DOCTYPE Doc [<!ATTLIST Item id CDATA '2'>]>" + body(""), "must have no document type declaration"),
    "a declaration that does not end": (b"<!DOCTYPE Doc [<!-- " + b"x" * 100_000, "must have no document type declaration"),
    "an external entity": (b"<!DOCTYPE Doc SYSTEM 'file:///etc/passwd'>" + body(""), "must have no document type declaration"),
    "an entity of nowhere": (body("<Name>&a;</Name>"), WELL),
    "an entity in an attribute": (body("<b:Amt Ccy='&a;'>1</b:Amt>"), WELL),
    "UTF-16 with its mark": (body("").decode().encode("utf-16"), "must be in UTF-8"),
    "UTF-16 without a mark": (body("").decode().encode("utf-16-le"), "must be in UTF-8"),
    "another encoding declared": (b"<?xml version='1.0' encoding='ISO-8859-1'?>" + body(""), "must be in UTF-8"),
    "an encoding that nobody knows": (b"<?xml version='1.0' encoding='x-none'?>" + body(""), "must be in UTF-8"),
    "XML 1.1": (b"<?xml version='1.1'?>" + body(""), WELL),
    "bytes that are no UTF-8": (body("<Name>").replace(b"<Name>", b"<Name>\xff</Name>"), "must be in UTF-8"),
    "a surrogate as a character": (body("<Name>&#xD800;</Name>"), WELL),
    "a surrogate in UTF-8": (body("<Name>x</Name>").replace(b"x</", b"\xed\xa0\x80</"), "must be in UTF-8"),
    "a control character": (body("<Name>\x01</Name>"), WELL),
    "a repeated attribute": (body("<b:Amt Ccy='1' Ccy='2'>1</b:Amt>"), WELL),
    "a repeated attribute by two prefixes": (body("<Name xmlns:x='urn:q' xmlns:y='urn:q' x:a='1' y:a='2'/>"), WELL),
    "an undeclared prefix": (body("<z:Name>1</z:Name>"), WELL),
    "not closed": (body("")[:-6], WELL),
    "two roots": (body("") + b"<x/>", WELL),
    "not XML": (b'{"id": 1}', WELL),
    "nested deep": (body("<Name>" * 500 + "</Name>" * 500), "must hold text only, no element"),
    "an unknown element": (body("<Nope/>"), "must be a member that the mapping knows"),
    "a known name in another namespace": (body("<c:Name/>"), "must be a member that the mapping knows"),
    "an unknown attribute": (body("<Name x='1'/>"), "must be a member that the mapping knows"),
    "text between elements": (body("hello"), "must hold elements only, no text"),
    "a second root element name": (b"<Other/>", "must be a member that the mapping knows"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    payload, must = REFUSED[name]
    found = objects(TEXT, payload)
    assert isinstance(found, Denied), found
    assert found.must == must


def test_a_refusal_says_where() -> None:
    found = [
        objects(TEXT, body(inside))
        for inside in ("<Name x='1'/>", "<b:Amt z='1'>1</b:Amt>", "<W><X><Leaf><q/></Leaf></X></W>", "<Nope a='1'/>")
    ]
    assert [f.path for f in found if isinstance(f, Denied)] == [
        "/Doc/Item/Name/x", "/Doc/Item/b:Amt/z", "/Doc/Item/W/X/Leaf", "/Doc/Item/Nope",
    ]  # fmt: skip


LOOSE = TEXT.replace("format: xml", "format: xml\nunknownMembers: Allow")


def test_unknown_things_pass_where_the_mapping_says_so() -> None:
    assert objects(LOOSE, body("<Nope a='1'><Name>no</Name></Nope>text<Name x='1'>yes</Name>")) == ['"yes"']
    deep = "<n>" * 60 + "</n>" * 60
    assert objects(LOOSE, body(deep)) == []
    for depth in (500, 100_000):
        found = objects(LOOSE, body("<n>" * depth + "</n>" * depth))
        assert isinstance(found, Denied)
        assert found.must == "must not be nested deeper than the mapping allows"


@pytest.mark.parametrize("size", [1000, 200_000, 900_000])
def test_long_texts_and_many_names_are_bounded(size: int) -> None:
    long = "x" * size
    assert objects(LOOSE, body(f"<Name>{long}</Name>")) == [f'"{long}"']
    names = "".join(f"<n{i}/>" for i in range(size // 8))
    found = objects(LOOSE, body(names))
    assert found == [] or (isinstance(found, Denied) and found.must == "must have fewer different names, or shorter ones")
    attributes = " ".join(f"a{i}='{i}'" for i in range(size // 16))
    found = objects(LOOSE, body(f"<Nope {attributes}/>"))
    assert found == [] or (isinstance(found, Denied) and found.must == "must have fewer different names, or shorter ones")


def test_a_namespace_has_512_bytes_at_most() -> None:
    """Expat copies it for each name in it: names of four bytes in a namespace of half a body would keep the tier for minutes."""
    for attack in ("<Nope xmlns='{}'/>", "<b:Amt xmlns:b='{}' b:x=''>1</b:Amt>"):
        assert not isinstance(objects(LOOSE, body(attack.format("u" * 512))), Denied)
        found = objects(LOOSE, body(attack.format("u" * 513)))
        assert isinstance(found, Denied)
        assert found.must == "must have fewer different names, or shorter ones"


def test_a_body_beyond_the_limit_of_o_is_no_observation() -> None:
    o = observation(body(f"<Name>{'x' * (10 << 20)}</Name>"))
    assert binding(LOOSE).decide(o).status < 0


def test_a_subject_is_made_of_one_value() -> None:
    found = objects(TEXT.replace("i/{@id}", "i/{Ref}-{@id}"), body("<Ref>1</Ref><Ref>2</Ref>"))
    assert isinstance(found, Denied)
    assert found.must.startswith("must be there once")


RML = """@prefix rml: <http://w3id.org/rml/> . @prefix ex: <https://e.x/> .
ex:item rml:logicalSource [ rml:source [ a rml:RelativePathSource; rml:path "in.xml" ]; rml:iterator "/Doc/Item";
    rml:referenceFormulation [ a rml:XPathReferenceFormulation; rml:namespace [ rml:namespacePrefix ""; rml:namespaceURL "urn:a" ],
      [ rml:namespacePrefix "b"; rml:namespaceURL "urn:b" ] ] ];
  rml:subjectMap [ rml:template "https://e.x/i/{@id}" ];
  rml:predicateObjectMap [ rml:predicate ex:name; rml:objectMap [ rml:reference "Name" ] ],
    [ rml:predicate ex:second; rml:objectMap [ rml:reference "Name[2]" ] ],
    [ rml:predicate ex:amount; rml:objectMap [ rml:reference "b:Amt" ] ],
    [ rml:predicate ex:currency; rml:objectMap [ rml:reference "b:Amt/@Ccy" ] ],
    [ rml:predicate ex:any; rml:objectMap [ rml:reference "*:Any" ] ],
    [ rml:predicate ex:deep; rml:objectMap [ rml:reference "W/*/Leaf/text()" ] ],
    [ rml:predicate ex:part; rml:objectMap [ rml:parentTriplesMap ex:part ] ],
    [ rml:predicate ex:peer; rml:objectMap [ rml:parentTriplesMap ex:part; rml:joinCondition [ rml:child "Ref"; rml:parent "@k" ] ] ] .
ex:part rml:logicalSource [ rml:source "in.xml"; rml:iterator "/Doc/Item/Part"; rml:referenceFormulation rml:XPath ];
  rml:subjectMap [ rml:template "https://e.x/p/{.}" ] .
"""


def test_rml_core_says_the_same() -> None:
    payload = body("<Name>1</Name><Name>2</Name><b:Amt Ccy='EUR'>5</b:Amt><Any>x</Any><Part k='y'>p</Part><Ref>y</Ref>")
    short, long = extract(TEXT, payload), extract(RML, payload, "text/turtle")
    assert not isinstance(short, Denied)
    assert not isinstance(long, Denied)
    assert len(short) == 8
    assert short.isomorphic(long)


WRONG = [
    ("ex:name: Name", "ex:name: //Name", "m.yaml:9: //Name: must be a path of name"),
    ("ex:name: Name", "ex:name: Name[last()]", "must be a path of name"),
    ("ex:name: Name", "ex:name: ../Name", "must be a path of name"),
    ("ex:name: Name", "ex:name: z:Name", "must have its prefix declared as a namespace; z: is unknown"),
    ("ex:name: Name", "ex:name: '@a/b'", "must have nothing after an attribute"),
    ("ex:name: Name", "ex:name: '*[2]'", "must name the element that is counted"),
    ("ex:name: Name", "ex:name: '@*'", "must name an attribute"),
    ("ex:name: Name", "ex:name: count(Name)", "must be a path of name"),
    ("{@id}", "{//id}", "must be a path of name"),
    ("format: xml", "format: csv", "m.yaml:1: csv: must be one of json, xml"),
    ("format: xml", "format: json", "must not be given: only XML has namespaces"),
    ("join: part", "join: nope", "nope: must be the id of a map"),
    (", on: {child: Ref, parent: \"@k\"}", "", "must have on: {child: path in this map"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "fault"), WRONG, ids=[f[1][:24] or "none" for f in WRONG])
def test_a_fault_names_its_line(old: str, new: str, fault: str) -> None:
    assert old in TEXT
    found = faults(TEXT.replace(old, new, 1))
    assert any(fault in f for f in found), found
