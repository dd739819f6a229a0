"""What each codec costs and what it loses, on the logits of a real language model (benchmarks/smollm.py).

For each setting: the exact bytes of a position, the damage that coding alone does (KL over the K kept classes and one
bucket for all others, against the exact values), KL(teacher || decoded) over all classes with an even tail, the largest
error of the head's mass at T = 1, 2 and 4, the angle between the gradient of the head's weights and that of the whole
distribution, and the speed of decoding against np.copyto of as many bytes in the same run.

The student of the gradient is the teacher with noise on its hidden states, so strong that KL is about 1.12 nats.
Targets that hold draws are measured with one draw and with the mean of 16.
The last line is the result as JSON. KL in nats. Legend: M positions, C classes, K kept, D channels.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch

from benchmarks.distillkit import SETTINGS, SMALLEST_TAIL, Polynomial
from benchmarks.smollm import Sample, sample
from cluster.memory import keep_freed_memory
from cluster.shards.codecs.codec import Codec
from cluster.shards.codecs.draws import draws_of
from cluster.shards.codecs.hidden import HiddenCodec
from cluster.shards.codecs.open import codec_of
from cluster.shards.codecs.sampled import SampledCodec
from cluster.shards.codecs.spec import AnyCodecConfig, DenseConfig, HiddenConfig, SampledConfig, TopKConfig
from cluster.shards.codecs.topk import TopKCodec
from teachers.selection import select

NUM_DRAWS = 16
STUDENT_KL = 1.12
TEMPERATURES = (1.0, 2.0, 4.0)
PART = 256
DECODED_POSITIONS = 100_000

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Figures:
    """One line of the table; None where a figure has no meaning."""

    name: str
    token_bytes: int
    coding_kl: float | None = None
    kl: float | None = None
    head_mass_error: float | None = None
    angle_one_draw: float | None = None
    angle: float | None = None
    decode_gb_per_s: float | None = None
    of_memcpy: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=3072, help="for KL (default: %(default)s)")
    parser.add_argument("--gradient-positions", type=int, default=1024, help="the first of them (default: %(default)s)")
    arguments = parser.parse_args()
    teacher = sample(arguments.positions, seed=0)
    keep_freed_memory()  # as replicas and workers do
    gradient = Gradient(teacher, arguments.gradient_positions)
    channels = teacher.hidden_MD.shape[1]
    lines = [measure(config, teacher, gradient) for config in configurations(channels)]
    lines += [measure_polynomial(setting, teacher, gradient) for setting in SETTINGS]
    lines += [Figures("top 32 renormalised", 128, angle=gradient.angle_of(renormalised(32)))]
    report(lines, positions=arguments.positions, gradient=gradient)


def configurations(channels: int) -> list[AnyCodecConfig]:
    """Return the settings that are measured; those of the goals stand at 102, 114 and at most 170 bytes."""
    bare = {"temperatures": (), "tail_samples": 0}
    return [
        TopKConfig(k=33, values="int8", **bare),
        TopKConfig(k=44, values="int4", **bare),
        TopKConfig(),
        TopKConfig(values="int8", tail_samples=16),
        TopKConfig(values="float16", **bare),
        SampledConfig(draws=12),
        SampledConfig(draws=50),
        HiddenConfig(head="lm_head", width=channels, values="int8"),
        HiddenConfig(head="lm_head", width=channels),
        DenseConfig(),
    ]


class Gradient:
    """The gradient of a cross-entropy with the head's weights: (q - target)ᵀ h, over some positions."""

    def __init__(self, teacher: Sample, positions: int) -> None:
        self.part = Sample(teacher.hidden_MD[:positions], teacher.weight_CD)
        self._probabilities_MC = torch.softmax(self.part.logits_MC, dim=-1)
        noise_MD = torch.randn(self.part.hidden_MD.shape, generator=torch.Generator().manual_seed(0))
        noise_MD *= self.part.hidden_MD.std(dim=0)
        low, high = 0.0, 1.5
        for _ in range(6):
            strength = (low + high) / 2
            self._hidden_MD = self.part.hidden_MD + strength * noise_MD
            student = torch.log_softmax(self._hidden_MD @ teacher.weight_CD.T, dim=-1)
            teacher_log = self._probabilities_MC.clamp_min(1e-38).log()
            self.student_kl = float((self._probabilities_MC * (teacher_log - student)).sum(dim=-1).mean())
            low, high = (strength, high) if self.student_kl < STUDENT_KL else (low, strength)
        self._full_CD = (student.exp() - self._probabilities_MC).T @ self._hidden_MD

    def angle_of(self, target: Callable[[torch.Tensor], torch.Tensor]) -> float:
        """Return the angle, degrees, between the full gradient and that to `target` of the teacher's logits."""
        # The difference is computed by itself: in the sum of two large gradients float32 would round it away.
        difference_MC = self._probabilities_MC - target(self.part.logits_MC)
        full, other = self._full_CD.double(), (difference_MC.T @ self._hidden_MD).double()
        other += full
        cosine = float((full * other).sum() / full.norm() / other.norm())
        return float(np.degrees(np.arccos(min(1.0, cosine))))


def measure(config: AnyCodecConfig, teacher: Sample, gradient: Gradient) -> Figures:
    codec = codec_of(config, len(teacher.weight_CD))
    arrays = packed(codec, config, teacher)
    speed, share = decoding_speed(codec, arrays)
    return Figures(
        name=str(config),
        token_bytes=sum(column.row_bytes for column in codec.columns()),
        coding_kl=coding_kl(codec, arrays, teacher) if isinstance(codec, TopKCodec) else None,
        kl=None if isinstance(codec, SampledCodec) else full_kl(codec, arrays, teacher),
        head_mass_error=head_mass_error(codec, arrays, teacher) if isinstance(codec, TopKCodec) else None,
        angle_one_draw=gradient.angle_of(target_of(config, gradient.part)) if config.num_draws else None,
        angle=gradient.angle_of(target_of(many_draws(config), gradient.part)),
        decode_gb_per_s=speed,
        of_memcpy=share,
    )


def packed(codec: Codec, config: AnyCodecConfig, teacher: Sample) -> Arrays:
    """Return the columns of all positions, and the shared ones."""
    draws = draws_of("0" * 16, 0, (len(teacher.hidden_MD), config.num_draws))
    outputs: dict[str, np.ndarray] = {}
    for start in range(0, len(draws), PART):
        part = Sample(teacher.hidden_MD[start : start + PART], teacher.weight_CD)
        chosen = select(config, part.logits_MC, draws=draws[start : start + PART], hidden=part.hidden_MD)
        outputs = {name: np.concatenate([outputs.get(name, array[:0]), array]) for name, array in chosen.items()}
    shared = {}
    if isinstance(codec, HiddenCodec):
        bias = np.zeros(codec.num_classes, np.float32)
        shared = codec.share(outputs, teacher.weight_CD.numpy(), bias)
    return codec.pack({**outputs, **shared}) | shared


def rows_of(codec: Codec, arrays: Arrays, rows: slice) -> dict[str, np.ndarray]:
    shared = {column.name for column in codec.shared_columns()}
    return {name: array if name in shared else array[rows] for name, array in arrays.items()}


def full_kl(codec: Codec, arrays: Arrays, teacher: Sample) -> float:
    total = 0.0
    for start in range(0, len(teacher.hidden_MD), PART):
        rows = slice(start, start + PART)
        logits = torch.from_numpy(codec.logits(rows_of(codec, arrays, rows), temperature=1.0))
        total += kl_sum(Sample(teacher.hidden_MD[rows], teacher.weight_CD).logits_MC, logits)
    return total / len(teacher.hidden_MD)


def kl_sum(teacher_MC: torch.Tensor, decoded_MC: torch.Tensor) -> float:
    exact, found = (torch.log_softmax(logits.double(), dim=-1) for logits in (teacher_MC, decoded_MC))
    return float((exact.exp() * (exact - found)).sum())


def exact_head(teacher: Sample, ids: np.ndarray, temperature: float, rows: slice) -> np.ndarray:
    """Return the teacher's log-probabilities of some classes and, last, of all others, float64 `[M, K + 1]`."""
    logits = Sample(teacher.hidden_MD[rows], teacher.weight_CD).logits_MC.double() / temperature
    chosen = torch.from_numpy(ids[rows].astype(np.int64))
    normaliser = torch.logsumexp(logits, dim=-1, keepdim=True)
    others = torch.logsumexp(logits.scatter(-1, chosen, -torch.inf), dim=-1, keepdim=True)
    return (torch.cat([logits.gather(-1, chosen), others], dim=-1) - normaliser).numpy()


def coding_kl(codec: TopKCodec, arrays: Arrays, teacher: Sample) -> float:
    labels, total = codec.decode(arrays), 0.0
    found = np.concatenate([labels.log_probs, labels.log_tail[:, None]], axis=1).astype(np.float64)
    found -= np.log(np.exp(found).sum(axis=1, keepdims=True))  # float32 leaves it 1e-7 off, as much as is measured
    for start in range(0, len(found), PART):
        rows = slice(start, start + PART)
        exact = exact_head(teacher, labels.ids, 1.0, rows)
        total += float((np.exp(exact) * (exact - found[rows])).sum())
    return total / len(found)


def head_mass_error(codec: TopKCodec, arrays: Arrays, teacher: Sample) -> float:
    """Return the largest difference of the head's mass, over all positions and the temperatures that are served."""
    worst = 0.0
    for temperature in codec.config.served:
        labels = codec.decode(arrays, temperature=temperature)
        found = np.exp(labels.log_probs.astype(np.float64)).sum(axis=1)
        for start in range(0, len(found), PART):
            rows = slice(start, start + PART)
            exact = np.exp(exact_head(teacher, labels.ids, temperature, rows)[:, :-1]).sum(axis=1)
            worst = max(worst, float(np.abs(exact - found[rows]).max()))
    return worst


def many_draws(config: AnyCodecConfig) -> AnyCodecConfig:
    """Return the setting whose one target is the mean of `NUM_DRAWS` targets of `config`."""
    match config:
        case TopKConfig():
            return config.model_copy(update={"tail_samples": NUM_DRAWS * config.tail_samples})
        case SampledConfig():
            return config.model_copy(update={"draws": NUM_DRAWS * config.draws})
    return config


def target_of(config: AnyCodecConfig, part: Sample) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what a loss would match: the draws where there are some, and otherwise the decoded distribution."""
    codec = codec_of(config, len(part.weight_CD))

    def target(logits_MC: torch.Tensor) -> torch.Tensor:
        arrays = packed(codec, config, part)
        if isinstance(codec, TopKCodec | SampledCodec) and config.num_draws:
            labels = codec.decode(arrays)
            ids = np.concatenate([labels.ids, labels.tail_ids], axis=1).astype(np.int64)
            masses = np.exp(np.concatenate([labels.log_probs, labels.tail_log_masses], axis=1))
            return torch.zeros_like(logits_MC).scatter_add_(-1, torch.from_numpy(ids), torch.from_numpy(masses))
        return torch.softmax(torch.from_numpy(codec.logits(arrays, temperature=1.0)), dim=-1)

    return target


def renormalised(k: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def target(logits_MC: torch.Tensor) -> torch.Tensor:
        values, ids = logits_MC.topk(k, dim=-1)
        return torch.zeros_like(logits_MC).scatter_(-1, ids, torch.softmax(values, dim=-1))

    return target


def measure_polynomial(setting: Polynomial, teacher: Sample, gradient: Gradient) -> Figures:
    total = 0.0

    def target(logits_MC: torch.Tensor) -> torch.Tensor:
        values, ids = torch.log_softmax(logits_MC, dim=-1).topk(setting.k, dim=-1)
        head = torch.from_numpy(setting.decoded(values.numpy())).double().exp()
        tail = (1 - head.sum(dim=-1, keepdim=True)).clamp_min(SMALLEST_TAIL) / (logits_MC.shape[1] - setting.k)
        whole = tail.expand(logits_MC.shape).scatter(-1, ids, head)
        return (whole / whole.sum(dim=-1, keepdim=True)).float()

    for start in range(0, len(teacher.hidden_MD), PART):
        logits = Sample(teacher.hidden_MD[start : start + PART], teacher.weight_CD).logits_MC
        total += kl_sum(logits, target(logits).clamp_min(1e-38).log())
    kl = total / len(teacher.hidden_MD)
    return Figures(setting.name, setting.token_bytes(len(teacher.weight_CD)), kl=kl, angle=gradient.angle_of(target))


def decoding_speed(codec: Codec, arrays: Arrays) -> tuple[float | None, float | None]:
    """Return GB/s of what decoding gives, and its share of copying as many bytes; for codecs that keep few classes."""
    if not isinstance(codec, TopKCodec):
        return None, None
    repeats = -(-DECODED_POSITIONS // len(arrays["ids"]))
    many = {name: np.concatenate([array] * repeats) for name, array in arrays.items()}
    source = np.zeros(many["ids"].shape, np.float32)
    target = np.empty_like(source)
    copy_s = fastest(lambda: np.copyto(target, source))
    decode_s = fastest(lambda: codec.decode(many))
    return source.nbytes / decode_s / 1e9, copy_s / decode_s


def fastest(call: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        started_s = time.perf_counter()
        call()
        times.append(time.perf_counter() - started_s)
    return min(times)


def report(lines: list[Figures], *, positions: int, gradient: Gradient) -> None:
    heads = ("B", "coding KL", "KL", "head mass", "angle 1", "angle 16", "GB/s", "x memcpy")
    print(f"{'':<72}" + "".join(f"{head:>11}" for head in heads))
    for line in lines:
        _, *figures = asdict(line).values()
        print(f"{line.name:<72}" + "".join(f"{'' if it is None else f'{it:.4g}':>11}" for it in figures))
    print(
        json.dumps(
            {
                "benchmark": "codecs",
                "positions": positions,
                "gradient_positions": len(gradient.part.hidden_MD),
                "student_kl": round(gradient.student_kl, 3),
                "settings": [asdict(line) for line in lines],
            }
        )
    )


if __name__ == "__main__":
    main()
