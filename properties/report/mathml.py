"""Formulas: LaTeX to MathML, which browsers show without a script."""

import xml.etree.ElementTree as ElementTree
from functools import cache
from html import unescape

NAMESPACE = "http://www.w3.org/1998/Math/MathML"
ELEMENTS = set(
    "math mrow mi mn mo mtext mspace ms mfrac msqrt mroot mstyle merror mpadded mphantom mfenced menclose msub msup "
    "msubsup munder mover munderover mmultiscripts mtable mtr mtd".split()
)
ATTRIBUTES = set(
    "display mathvariant stretchy fence form lspace rspace width height depth minsize maxsize accent accentunder "
    "linethickness displaystyle scriptlevel movablelimits separator symmetric largeop columnalign rowspacing "
    "columnspacing columnlines rowlines notation open close".split()
)


def _clean(element: ElementTree.Element) -> ElementTree.Element:
    """A copy that holds mathematics only; ValueError where there is anything else or a macro was not understood."""
    name = element.tag.removeprefix(f"{{{NAMESPACE}}}")
    if name not in ELEMENTS:
        raise ValueError(f"<{name}> is not MathML")
    copy = ElementTree.Element(name, {key: value for key, value in element.attrib.items() if key in ATTRIBUTES})
    copy.text, copy.tail = unescape(element.text or ""), unescape(element.tail or "")
    if copy.text.startswith("\\"):
        raise ValueError(f"{copy.text} is unknown")
    copy.extend(_clean(child) for child in element)
    return copy


@cache
def formula(latex: str) -> str | None:
    """MathML (display style) of a LaTeX formula; None where it cannot be converted, and the LaTeX is to be shown."""
    try:
        from latex2mathml.converter import convert_to_element

        return ElementTree.tostring(_clean(convert_to_element(latex, display="block")), encoding="unicode")
    except Exception:  # the library is missing or the LaTeX is beyond it: a formula never costs the reader the report
        return None
