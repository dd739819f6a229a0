"""From a codec's settings to the codec."""

from cluster.shards.codecs.codec import Codec
from cluster.shards.codecs.dense import DenseCodec
from cluster.shards.codecs.hidden import HiddenCodec
from cluster.shards.codecs.sampled import SampledCodec
from cluster.shards.codecs.spec import AnyCodecConfig, DenseConfig, HiddenConfig, SampledConfig, TopKConfig
from cluster.shards.codecs.topk import TopKCodec


def codec_of(config: AnyCodecConfig, num_classes: int) -> Codec:
    """Return the codec for distributions over `num_classes` classes.

    Raises:
        CodecMisfitError: they are too few for it.
    """
    match config:
        case DenseConfig():
            return DenseCodec(config, num_classes)
        case TopKConfig():
            return TopKCodec(config, num_classes)
        case SampledConfig():
            return SampledCodec(config, num_classes)
        case HiddenConfig():
            return HiddenCodec(config, num_classes)
