from importlib import metadata

from pgjax.runs import provenance


def test_a_source_tree_need_not_be_installed(monkeypatch):
    version = metadata.version

    def missing(package):
        if package == "pgjax":
            raise metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(metadata, "version", missing)
    facts = provenance.machine_facts("CartPole-v1")
    assert facts["pgjax version"] == "not installed"
    assert facts["numpy version"] == version("numpy")
