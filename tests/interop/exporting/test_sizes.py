"""Which images an exported model takes."""

import pytest

from kdseg_jax.errors import UserError
from kdseg_jax.interop.exporting.sizes import Sizes, attempts


@pytest.mark.parametrize('sizes,shape,text', [
    (Sizes(), '(batch, height, width, 3)', 'any number of images of any size'),
    (Sizes(multiple=32), '(batch, 32*height, 32*width, 3)',
     'any number of images, whose height and width are multiples of 32 pixels'),
    (Sizes(size=(4, 6)), '(batch, 4, 6, 3)', 'any number of images, of 4x6 pixels'),
    (Sizes(1, (4, 6)), '(1, 4, 6, 3)', '1 image at once, of 4x6 pixels')])
def test_shapes(sizes, shape, text):
  abstract = sizes.abstract()
  assert f'({", ".join(map(str, abstract.shape))})' == shape and abstract.dtype == 'uint8'
  assert str(sizes) == text
  assert Sizes.of(sizes._asdict() | {'name': 'images'}) == sizes
  for batch, height, width in sizes.examples():
    assert sizes.batch in (None, batch) and sizes.size in (None, (height, width))
    assert height % sizes.multiple == width % sizes.multiple == 0
  assert len(set(sizes.examples())) == (1 if sizes.batch else 2)


def test_the_freest_come_first():
  assert attempts(None, (64, 48)) == [
      Sizes(), Sizes(multiple=32), Sizes(size=(64, 48)), Sizes(1, (64, 48))]
  assert attempts((8, 9), (64, 48)) == [Sizes(size=(8, 9)), Sizes(1, (8, 9))]
  with pytest.raises(UserError, match='--size=0,9: expected height and width'):
    attempts((0, 9), (64, 48))
