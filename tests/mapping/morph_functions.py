# ruff: noqa: F821
# mypy: ignore-errors
"""The functions of formats/guardplan.md for morph-kgc, written from the page by Python's own means. morph-kgc reads it and brings `udf`."""

FN = "https://knhk.dev/ns/fn#"


def _civil(text, pattern):
    import datetime
    import re

    names = {
        "YYYY": r"(?P<Y>\d{4})",
        "MM": r"(?P<M>\d\d)",
        "DD": r"(?P<D>\d\d)",
        "M": r"(?P<M>\d\d?)",
        "D": r"(?P<D>\d\d?)",
        "hh": r"(?P<h>\d\d)",
    }
    names |= {"h": r"(?P<h>\d\d?)", "mm": r"(?P<m>\d\d)", "ss": r"(?P<s>\d\d)", "f": r"(?P<f>\d+)", "Z": r"(?P<Z>Z|[+-]\d\d(?::?\d\d)?)"}
    form = "".join(names.get(p, re.escape(p)) for p in re.findall(r"YYYY|MM|DD|hh|mm|ss|.", pattern.removesuffix("*")))
    found = re.fullmatch(form + (".*" if pattern.endswith("*") else ""), text)
    parts = found.groupdict()
    time = datetime.time(*(int(parts.get(k) or 0) for k in "hms"))
    return datetime.date(*(int(parts[k]) for k in "YMD")), time, (parts.get("f") or "").rstrip("0"), parts.get("Z") or ""


def _moment(millis):
    import datetime

    m = datetime.datetime(1970, 1, 1) + datetime.timedelta(milliseconds=millis)
    fraction = f".{m.microsecond // 1000:03}".rstrip("0").rstrip(".")
    return m.strftime("%Y-%m-%dT%H:%M:%S") + fraction + "Z"


@udf(fun_id=FN + "date", value=FN + "value", pattern=FN + "pattern")
def date(value, pattern):
    return _civil(value, pattern)[0].isoformat()


@udf(fun_id=FN + "dateTime", value=FN + "value", pattern=FN + "pattern", zone=FN + "zone")
def date_time(value, pattern, zone):
    day, time, fraction, own = _civil(value, pattern)
    return f"{day.isoformat()}T{time.isoformat()}{'.' + fraction if fraction else ''}{own or zone}"


@udf(fun_id=FN + "dotNetDate", value=FN + "value")
def dot_net_date(value):
    import re

    found = re.fullmatch(r"/Date\((-?\d+)(?:([+-])(\d\d)(\d\d))?\)/", value)
    shift = (int(found[3]) * 60 + int(found[4])) * 60000 * (-1 if found[2] == "-" else 1) if found[2] else 0
    return _moment(int(found[1]) + shift)[:10]


@udf(fun_id=FN + "dotNetDateTime", value=FN + "value")
def dot_net_date_time(value):
    import re

    return _moment(int(re.fullmatch(r"/Date\((-?\d+)([+-]\d{4})?\)/", value)[1]))


@udf(fun_id=FN + "epochMillis", value=FN + "value")
def epoch_millis(value):
    return _moment(int(value))


def _canonical(text):
    import decimal

    plain = f"{decimal.Decimal(text):f}"
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    return "0" if plain == "-0" else plain


def _signed(text):
    text = text.strip()
    return text[-1] + text[:-1] if text[-1] in "+-" else text


@udf(fun_id=FN + "decimalPoint", value=FN + "value")
def decimal_point(value):
    return _canonical(_signed(value).replace(",", ""))


@udf(fun_id=FN + "decimalComma", value=FN + "value")
def decimal_comma(value):
    return _canonical(_signed(value).replace(".", "").replace(",", "."))


@udf(fun_id=FN + "absentIf", value=FN + "value", text=FN + "text")
def absent_if(value, text):
    return None if value == text else value


@udf(fun_id=FN + "stripZeros", value=FN + "value")
def strip_zeros(value):
    return value[:-1].lstrip("0") + value[-1:]


@udf(fun_id=FN + "trim", value=FN + "value")
def trim(value):
    return value.strip(" \t\r\n")


@udf(fun_id=FN + "upper", value=FN + "value")
def upper(value):
    return value.upper()


@udf(fun_id=FN + "prefix", value=FN + "value", text=FN + "text")
def prefix(value, text):
    return text + value


@udf(fun_id=FN + "percentEncode", value=FN + "value")
def percent_encode(value):
    import urllib.parse

    return urllib.parse.quote(value, safe="-._~")


@udf(fun_id=FN + "codes", value=FN + "value", list=FN + "list")
def codes(value, list):
    import json

    known = json.loads(bytes.fromhex(list).decode())
    return known["codes"].get(value, known["other"])
