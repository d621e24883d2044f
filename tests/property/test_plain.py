"""Images of merged layers, made without a tree, are those of the tree."""

from hypothesis import given, settings
from hypothesis import strategies as st

from composefs.dumpfile import format_dump
from composefs.erofs import VERSIONS
from composefs.erofs.writer import write_image
from composefs.oci.merge import Merger, merge_layers
from composefs.oci.plain import plain_dump, plain_image
from composefs.transform import transform_for_oci
from composefs.xattrs import XattrFilter
from tests.property.test_merge import LAYERS, indexes, last

BASE = [("directory", "usr", "", 1), ("directory", "run", "", 2)]


@settings(max_examples=200)
@given(LAYERS, st.sampled_from(VERSIONS))
def test_images(described, version):
    """Whatever is merged."""
    *lower, highest = last(described)
    layers = indexes([*lower, [*highest, *BASE]])
    root = merge_layers(layers)
    transform_for_oci(root)
    merger = Merger()
    for layer in layers:
        merger.apply(layer)

    assert plain_image(merger, version) == write_image(root, version)
    assert b"".join(map(bytes, plain_dump(merger, XattrFilter.ALLOWLIST_ONLY))) == b"".join(format_dump(root))
