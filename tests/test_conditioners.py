"""Class labels, and several conditions together: encoded, drawn, dropped, embedded."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import rng
from genjax.build import build, fill_inferred, spec, with_defaults
from genjax.conditioners import (
  STREAM,
  ClassLabel,
  Together,
  Unconditional,
  class_label,
  complete,
  is_null,
  num_classes,
  only,
)
from genjax.errors import UsageError
from genjax.types import Conditioner, Example
from tests.conftest import labeled_example, same_bits

N = 400
KEYS = rng.image_keys(rng.key(5), np.arange(N))
CLASSES = ('boot', 'bag', 'shoe')
IMAGE = jax.ShapeDtypeStruct((8, 8, 1), np.float32)
SHOES = Example(IMAGE, {'label': jax.ShapeDtypeStruct((), np.int32)}, CLASSES, 100)


@dataclasses.dataclass(frozen=True)
class Tint:
  """A custom conditioner: a color, whose null value is black. With `drawable=False` it is like a text."""

  field: str = 'tint'
  drawable: bool = True

  @property
  def fields(self):
    return (self.field,)

  def check(self, example):
    if self.field not in example.cond:
      raise UsageError(f'the data have no {self.field}.')

  def encode(self, values, n, example):
    if self.field not in values:
      return {}
    return {self.field: np.broadcast_to(np.asarray(values[self.field], np.float32), (n, 3))}

  def null(self, cond):
    return {self.field: jnp.zeros_like(cond[self.field])}

  def draw(self, keys):
    if not self.drawable:
      raise UsageError(f'{self.field}: set one.')
    return {self.field: rng.uniform(keys, (3,), 0.1, 1.0)}

  def embed(self, cond):
    return {self.field: 2 * cond[self.field]}

  def drop(self, keys, cond, rate):
    raise AssertionError('a part does not drop by itself')


BOTH = Together((ClassLabel(3), Tint()))
COND = {'label': jnp.arange(N, dtype=jnp.int32) % 3, 'tint': jnp.linspace(0.1, 1, 3 * N).reshape(N, 3)}
LABEL = {'label': COND['label']}


@pytest.mark.parametrize('conditioner', [Unconditional(), ClassLabel(3), BOTH, Tint()], ids=lambda c: type(c).__name__)
def test_conditioners_are_hashable_values(conditioner):
  assert isinstance(conditioner, Conditioner)
  assert hash(conditioner) == hash(dataclasses.replace(conditioner))
  assert conditioner == dataclasses.replace(conditioner)


@pytest.mark.parametrize(
  ('label', 'numbers'),
  [
    (2, [2, 2, 2, 2]),
    ('bag', [1, 1, 1, 1]),
    ([0, 1, 2, 1], [0, 1, 2, 1]),
    (['shoe', 'boot', 'bag', 'boot'], [2, 0, 1, 0]),
    (['shoe', 0, np.int64(1), jnp.int32(2)], [2, 0, 1, 2]),
    (['bag'], [1, 1, 1, 1]),
    (np.uint8([0, 1, 2, 1]), [0, 1, 2, 1]),
    (np.array(['shoe', 'boot', 'bag', 'boot']), [2, 0, 1, 0]),
    (jnp.int32(1), [1, 1, 1, 1]),
    ((2, 2, 0, 0), [2, 2, 0, 0]),
  ],
)
def test_a_class_is_set_by_its_number_or_its_name(label, numbers):
  actual = ClassLabel(3).encode({'label': label}, 4, SHOES)
  assert list(actual) == ['label']
  assert actual['label'].dtype == np.int32
  assert actual['label'].tolist() == numbers


def test_missing_fields_are_not_encoded():
  for values in ({}, {'label': None}, {'tint': 1.0}):
    assert ClassLabel(3).encode(values, 4, SHOES) == {}
  assert Unconditional().encode({'label': 2}, 4, SHOES) == {}


def test_classes_without_names_are_named_by_their_numbers():
  example = labeled_example((8, 8, 1), 10)
  assert ClassLabel(10).encode({'label': '7'}, 1, example)['label'].tolist() == [7]


@pytest.mark.parametrize(
  ('label', 'words'),
  [
    (3, ['label=3', '0 to 2']),
    (-1, ['label=-1', '0 to 2']),
    (2**70, ['label=', '0 to 2']),
    ('bags', ["'bags'", 'Did you mean bag?']),
    ('zebra', ["'zebra'", 'bag, boot, shoe']),
    ('', ["''"]),
    (1.0, ['label=1.0', 'number or the name']),
    (float('nan'), ['label=nan']),
    (True, ['label=True', 'number or the name']),
    ([0, True, 1, 2], ['label=True']),
    ([0, None, 1, 2], ['label=None']),
    ([0, 1], ['label', '4 images']),
    ([], ['label', '4 images']),
    (np.zeros((4, 1), int), ['label=[0]']),
    (np.zeros((2, 2), int), ['label', '4 images']),
    ([[0], [1, 2], [0], [0]], ['label=[0]']),
    ([1, 1, 3, 1], ['label=3']),
    (['bag', 'bag', 'bags', 3], ["'bags'"]),
    ({'a': 1}, ['label=']),
    (object(), ['label=']),
  ],
)
def test_a_class_that_the_model_does_not_have(label, words):
  with pytest.raises(UsageError) as actual:
    ClassLabel(3).encode({'label': label}, 4, SHOES)
  assert all(word in str(actual.value) for word in words), actual.value


def test_the_null_label_is_a_row_of_zeros():
  null = ClassLabel(3).null(LABEL)
  assert null['label'].dtype == jnp.int32
  assert (null['label'] == 3).all()
  assert (ClassLabel(3).embed(null)['label'] == 0).all()
  rows = ClassLabel(3).embed(LABEL)['label']
  assert rows.shape == (N, 3)
  assert (rows == np.eye(3)[np.arange(N) % 3]).all()
  assert is_null(ClassLabel(3), null).all()
  assert not is_null(ClassLabel(3), LABEL).any()


def test_classes_are_drawn_uniformly_each_from_its_own_key():
  samples = ClassLabel(3).draw(KEYS)['label']
  assert (np.bincount(samples, minlength=3) > N / 3 - 50).all()
  assert samples.max() == 2
  assert same_bits(ClassLabel(3).draw(KEYS[7:9])['label'], samples[7:9])
  assert Unconditional().draw(KEYS) == {}


@pytest.mark.parametrize('rate', [0.0, 0.1, 1.0])
def test_a_part_of_the_labels_is_dropped(rate):
  actual = ClassLabel(3).drop(KEYS, LABEL, rate)['label']
  dropped = np.asarray(rng.bernoulli(KEYS, rate))
  assert (actual == np.where(dropped, 3, LABEL['label'])).all()
  assert abs(dropped.mean() - rate) < 0.06
  assert same_bits(ClassLabel(3).drop(KEYS[4:9], {'label': LABEL['label'][4:9]}, rate)['label'], actual[4:9])
  assert (is_null(ClassLabel(3), {'label': actual}) == dropped).all()
  assert Unconditional().drop(KEYS, {}, rate) == {}


@pytest.mark.parametrize('parts', [(ClassLabel(3), Tint()), (Tint(), ClassLabel(3))], ids=['label first', 'tint first'])
def test_all_fields_of_an_example_are_dropped_together(parts):
  both = Together(parts)
  actual = both.drop(KEYS, COND, 0.3)
  dropped = np.asarray(rng.bernoulli(KEYS, 0.3))  # one draw, as of a label alone
  assert 0 < dropped.sum() < N
  assert (actual['label'] == np.where(dropped, 3, COND['label'])).all()
  assert (actual['tint'] == np.where(dropped[:, None], 0, COND['tint'])).all()
  assert same_bits(actual['label'], ClassLabel(3).drop(KEYS, LABEL, 0.3)['label'])
  assert (is_null(both, actual) == dropped).all()
  half = actual | {'label': COND['label']}  # an example of which one field is null is not
  assert not is_null(both, half).any()


def test_parts_keep_their_own_fields():
  assert BOTH.fields == ('label', 'tint')
  embedded = BOTH.embed(COND)
  assert same_bits(embedded, {'label': ClassLabel(3).embed(LABEL)['label'], 'tint': 2 * COND['tint']})
  null = BOTH.null(COND)
  assert {name: (x.shape, x.dtype) for name, x in null.items()} == {name: (x.shape, x.dtype) for name, x in COND.items()}
  assert is_null(BOTH, null).all()
  actual = BOTH.encode({'label': 'shoe', 'tint': [0, 0.5, 1]}, 2, SHOES)
  assert actual['label'].tolist() == [2, 2]
  assert actual['tint'].tolist() == [[0, 0.5, 1]] * 2
  assert list(BOTH.encode({'tint': 1.0}, 2, SHOES)) == ['tint']
  assert only(BOTH, COND | {'mask': KEYS}).keys() == {'label', 'tint'}
  with pytest.raises(UsageError, match='twice'):
    Together((ClassLabel(3), Tint(), ClassLabel(2)))


def test_parts_draw_from_separate_streams():
  two = Together((Tint('a'), Tint('b')))
  samples = two.draw(KEYS)
  assert samples.keys() == {'a', 'b'}
  assert not np.isclose(samples['a'], samples['b']).all(axis=1).any()
  assert abs(np.corrcoef(samples['a'].ravel(), samples['b'].ravel())[0, 1]) < 0.1
  assert same_bits(samples['a'], Together((Tint('a'), ClassLabel(3))).draw(KEYS)['a'])  # whatever the others are
  assert same_bits({name: x[3:5] for name, x in samples.items()}, two.draw(KEYS[3:5]))


def test_only_what_is_missing_is_drawn():
  everything = complete(BOTH, {}, KEYS)
  assert same_bits(everything, BOTH.draw(rng.fold_in(KEYS, STREAM)))
  actual = complete(BOTH, LABEL, KEYS)
  assert actual['label'] is LABEL['label']
  assert same_bits(actual['tint'], everything['tint'])
  actual = complete(BOTH, {'tint': COND['tint']}, KEYS)
  assert actual['tint'] is COND['tint']
  assert same_bits(actual['label'], everything['label'])
  assert same_bits(complete(BOTH, COND, KEYS), COND)
  for conditioner, name in ((BOTH, 'mask'), (Unconditional(), 'tint')):
    with pytest.raises(UsageError, match=name):
      complete(conditioner, {name: COND['tint']}, KEYS)
  alone = complete(ClassLabel(3), {}, KEYS)
  assert same_bits(alone['label'], rng.labels(rng.fold_in(KEYS, 1), 3))  # as all versions have drawn it


def test_a_field_that_cannot_be_drawn_must_be_set():
  text = Together((ClassLabel(3), Tint(drawable=False)))
  assert complete(text, {'tint': COND['tint']}, KEYS)['label'].shape == (N,)
  with pytest.raises(UsageError, match='tint'):
    complete(text, LABEL, KEYS)


def test_conditions_are_traced():
  """Nothing in `draw`, `drop`, `null`, `embed` and `complete` looks at a value."""

  @jax.jit
  def conditions(keys, label):
    cond = BOTH.drop(keys, complete(BOTH, {'label': label}, keys), 0.2)
    return BOTH.embed(cond), is_null(BOTH, cond)

  embedded, dropped = conditions(KEYS, COND['label'])
  assert (dropped == rng.bernoulli(KEYS, 0.2)).all()
  assert (embedded['label'].sum(axis=1) == ~dropped).all()


def test_data_that_do_not_fit_are_refused_with_a_remedy():
  for conditioner in (Unconditional(), ClassLabel(3)):
    conditioner.check(SHOES)
  unlabeled = SHOES._replace(cond={}, classes=())
  Unconditional().check(unlabeled)
  for example, words in ((unlabeled, ['no labels']), (SHOES._replace(classes=CLASSES[:2]), ['2 classes', 'classes=3'])):
    for conditioner in (ClassLabel(3), Together((ClassLabel(3),))):
      with pytest.raises(UsageError) as actual:
        conditioner.check(example)
      assert all(word in str(actual.value) for word in [*words, 'conditioners.Unconditional']), actual.value
  with pytest.raises(UsageError, match='the data have no tint'):
    BOTH.check(SHOES)
  BOTH.check(SHOES._replace(cond=SHOES.cond | {'tint': jax.ShapeDtypeStruct((3,), np.float32)}))
  with pytest.raises(UsageError, match='no labels'):
    BOTH.check(unlabeled._replace(cond={'tint': jax.ShapeDtypeStruct((3,), np.float32)}))


def test_the_class_label_is_found_among_others():
  assert class_label(BOTH) == ClassLabel(3)
  assert [num_classes(c) for c in (Unconditional(), Tint(), ClassLabel(7), BOTH, Together((Tint(),)))] == [0, 0, 7, 3, 0]
  with pytest.raises(UsageError, match='classes=0 '):
    ClassLabel(0)


def test_a_label_among_several_conditions_gets_its_number_of_classes_from_the_data():
  both = spec('conditioners.Together', parts=(spec('conditioners.ClassLabel'),))
  filled = fill_inferred(with_defaults({'conditioner': both}), {'classes': 7})
  assert build(filled)['conditioner'] == Together((ClassLabel(7),))


def test_conditions_that_are_nested_are_those_of_one_level():
  nested = Together((Tint('a'), Together((Tint('b'), ClassLabel(3)))))
  assert nested == Together((Tint('a'), Tint('b'), ClassLabel(3)))
  assert num_classes(nested) == 3
