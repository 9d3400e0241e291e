"""What libraries import lazily is imported before the worker or a forked child needs it."""

from __future__ import annotations

from pathlib import Path

from support.processes import run


def test_lazy_imports_of_a_package_are_resolved_to_the_last(tmp_path: Path) -> None:
    # Before Python 3.15 `__lazy_modules__` means nothing, and all of these come at once.
    package = tmp_path / "lazy_library"
    package.mkdir()
    for module, imported in [("__init__", "first"), ("first", "second"), ("second", "third")]:
        (package / f"{module}.py").write_text(
            f"__lazy_modules__ = ['lazy_library.{imported}', 'lazy_library']\n"
            f"from lazy_library.{imported} import value\n"
        )
    (package / "third.py").write_text("value = 1\n")
    done = run(
        """
        from identity_client._eager import import_eagerly
        import lazy_library
        import_eagerly("lazy_library")
        print(sorted(name for name in sys.modules if name.startswith("lazy_library.")))
        """,
        "",
        PYTHONPATH=str(tmp_path),
    )
    assert (done.err, done.status) == ("", 0)
    assert done.out == "['lazy_library.first', 'lazy_library.second', 'lazy_library.third']\n"
