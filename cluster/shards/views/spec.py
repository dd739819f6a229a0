"""Views as configuration: what is done to training rows before any model sees them, and how often anew.

A view of a row is a pure function of the row's number in its source, of the view's number and of what stands here. So
whoever looks, on whatever machine and in whatever batch, sees the same bytes, and no more than a seed is ever stored.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cluster.config import Config

if TYPE_CHECKING:
    from cluster.shards.schema import Column

_DTYPES = ("uint8", "uint16", "float16", "float32")


class Augmentation(Config):
    """One change that is drawn for each row by itself."""

    @abstractmethod
    def misfit(self, height: int, width: int) -> str | None:
        """Return why rows of this size cannot be changed so, if they cannot."""


class CropConfig(Augmentation):
    """Shift the image by up to `padding` pixels each way; what comes in from outside is 0."""

    kind: Literal["crop"] = "crop"
    padding: Annotated[int, Field(ge=1)] = 4

    def misfit(self, height: int, width: int) -> str | None:
        """Refuse shifts that push the image out of sight."""
        if self.padding < min(height, width):
            return None
        return f"padding is {self.padding} and images have {height} x {width} pixels; expected less than a side"


class FlipConfig(Augmentation):
    """Mirror left and right."""

    kind: Literal["flip"] = "flip"
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the rows that are mirrored."""

    def misfit(self, height: int, width: int) -> str | None:
        """Any image has a mirror image."""
        return None


class ZoomConfig(Augmentation):
    """Cut out a part of the image, anywhere, and enlarge it to the whole (bilinear)."""

    kind: Literal["zoom"] = "zoom"
    least: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """Smallest share of each side that is kept; uniform from there to 1."""

    def misfit(self, height: int, width: int) -> str | None:
        """Any image can be enlarged."""
        return None


class RotateConfig(Augmentation):
    """Turn the image about its middle (bilinear); what comes in from outside is 0."""

    kind: Literal["rotate"] = "rotate"
    degrees: Annotated[float, Field(gt=0, le=180)] = 15.0
    """Largest angle either way; uniform."""

    def misfit(self, height: int, width: int) -> str | None:
        """Any image can be turned."""
        return None


class NoiseConfig(Augmentation):
    """Add independent Gaussian noise to every value; integers are rounded and stay in their range."""

    kind: Literal["noise"] = "noise"
    std: Annotated[float, Field(gt=0)]
    """Standard deviation in the units in which the column is stored."""

    def misfit(self, height: int, width: int) -> str | None:
        """Any values can be noisy."""
        return None


AnyAugmentation = Annotated[
    CropConfig | FlipConfig | ZoomConfig | RotateConfig | NoiseConfig, Field(discriminator="kind")
]


class _Sight(Config):
    """What all views of a data set have in common."""

    augment: tuple[AnyAugmentation, ...] = ()
    """Done in this order, each with draws of its own."""
    mixup: Annotated[float, Field(gt=0)] | None = None
    """Blend each row with another of its shard, λ x + (1 - λ) x', λ ~ Beta(mixup, mixup) (1710.09412)."""
    cutmix: Annotated[float, Field(gt=0)] | None = None
    """Paste a box of another row of the shard with a share 1 - λ of the pixels, λ ~ Beta(cutmix, cutmix) (1905.04899).
    With `mixup` too, each row draws which of the two it gets."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    column: str | None = None
    """Column that is changed; by default the data set's only one besides the label."""
    channels: Literal["first", "last"] = "first"
    """Where images that are stored with three axes have their channels."""

    @property
    def is_mixed(self) -> bool:
        """Whether rows are blended, so that a row has two labels."""
        return self.mixup is not None or self.cutmix is not None


class View(_Sight):
    """One view of every row: part of the identity of what teachers say of it."""

    recipe: Annotated[int, Field(ge=1, le=1)] = 1
    """Stands for the code: raised when the same options come to mean other bytes."""
    number: Annotated[int, Field(ge=0)]


class ViewsConfig(_Sight):
    """How training rows are seen: in another view in every epoch, by the teachers and by the student alike."""

    count: Annotated[int, Field(ge=1)] | None = None
    """Views that teachers label; a training of more epochs meets them again in turn. By default one for each epoch.
    More views later reuse those that are there."""
    plain_first: bool = False
    """The first view is the rows as they are, whose labels are those of a job without views."""

    def view(self, number: int) -> View | None:
        """Return one view; None for the rows as they are."""
        if self.plain_first and number == 0:
            return None
        return View(number=number, **self.model_dump(exclude={"count", "plain_first"}))

    def number_in(self, epoch: int) -> int:
        """Return the number of the view that an epoch sees."""
        return epoch if self.count is None else epoch % self.count

    def within(self, epochs: int) -> tuple[View | None, ...]:
        """Return the views that a training of so many epochs sees, in their order."""
        return tuple(self.view(number) for number in range(epochs if self.count is None else min(self.count, epochs)))

    def misfit(self, column: "Column") -> str | None:
        """Return why rows of `column` cannot be seen so, if they cannot; it begins with the option at fault."""
        if column.dtype not in _DTYPES:
            return f"column: {column.name} holds {column.dtype}, which is no measure; expected {', '.join(_DTYPES)}"
        size = _size_of(column.shape, self.channels)
        for place, augmentation in enumerate(self.augment):
            if isinstance(augmentation, NoiseConfig):
                continue
            if size is None:
                return (
                    f"augment.{place}: `{augmentation.kind}` changes images, and {_rows_of(column)}; expected `noise`"
                )
            if reason := augmentation.misfit(*size):
                return f"augment.{place}: {reason}"
        if self.cutmix is not None and size is None:
            return f"cutmix: it pastes boxes of images, and {_rows_of(column)}; expected `mixup`"
        return None


def _size_of(shape: Sequence[int], channels: Literal["first", "last"]) -> tuple[int, int] | None:
    """Return the height and the width of a row; None if it is no image."""
    match [channels, *shape]:
        case (
            [_, int(height), int(width)] | ["first", _, int(height), int(width)] | ["last", int(height), int(width), _]
        ):
            return height, width
    return None


def _rows_of(column: "Column") -> str:
    return f"rows of {column.name} have the shape {list(column.shape)}"
