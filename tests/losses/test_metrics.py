"""The metrics' definitions, against numbers worked out by hand and against the reference packages."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import lpips
import pytest
import pytorch_msssim
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from taehv.config.params import BestMetric, PerceptualName
from taehv.losses.metrics import (
    HISTORY_METRICS,
    Lpips,
    MetricError,
    lpips_backbone_file,
    mse_per_clip,
    pooled_psnr,
    psnr_per_clip,
    ssim_per_clip,
)
from taehv.losses.perceptual import PERCEPTUAL


def test_params_offer_metrics_and_perceptual_distances_that_there_are() -> None:
    assert set(get_args(BestMetric)) <= {metric.in_history for metric in HISTORY_METRICS}
    assert set(get_args(PerceptualName)) == PERCEPTUAL.keys()


def grey(*levels_per_frame: float, size: int = 16) -> Tensor:
    """One clip (1, T, 3, size, size) whose frames have one value each."""
    return torch.tensor(levels_per_frame).reshape(1, -1, 1, 1, 1).expand(1, -1, 3, size, size).contiguous()


def moving_noise(frames: int, size: int = 32) -> Tensor:
    """One clip (1, T, 3, size, size) of smooth random structure that changes with every frame."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(frames, 3, size // 8, size // 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)[None]


class TestPsnr:
    def test_an_error_of_a_tenth_everywhere_is_20_db(self) -> None:
        assert psnr_per_clip(grey(0.5, 0.5), grey(0.6, 0.6)).item() == pytest.approx(20.0, abs=1e-4)

    def test_frames_are_averaged_in_decibel_and_pooled_psnr_averages_squared_errors(self) -> None:
        decoded, frames = grey(0.5, 0.5), grey(0.6, 0.51)  # 20 dB and 40 dB; squared errors 0.01 and 0.0001
        assert psnr_per_clip(decoded, frames).item() == pytest.approx(30.0, abs=1e-3)
        assert mse_per_clip(decoded, frames).item() == pytest.approx(0.00505, rel=1e-4)
        assert pooled_psnr(mse_per_clip(decoded, frames)) == pytest.approx(22.967, abs=1e-3)

    def test_an_exact_copy_counts_100_db_and_no_frame_counts_more(self) -> None:
        frames = moving_noise(4)
        assert psnr_per_clip(frames, frames).item() == 100.0
        assert pooled_psnr(mse_per_clip(frames, frames)) == 100.0
        one_exact_frame = psnr_per_clip(grey(0.5, 0.5), grey(0.5, 0.6)).item()
        assert one_exact_frame == pytest.approx((100 + 20) / 2, abs=1e-3)

    def test_decoded_values_outside_the_range_are_clamped(self) -> None:
        assert psnr_per_clip(grey(1.7), grey(1.0)).item() == 100.0
        assert psnr_per_clip(grey(-3.0), grey(0.1)).item() == pytest.approx(20.0, abs=1e-4)

    def test_each_clip_of_a_batch_has_its_own_number(self) -> None:
        values = psnr_per_clip(torch.cat([grey(0.5), grey(0.5)]), torch.cat([grey(0.6), grey(0.51)]))
        assert values.tolist() == pytest.approx([20.0, 40.0], abs=1e-3)
        assert values.dtype == torch.float64

    @given(st.integers(1, 12), st.integers(1, 12))
    def test_only_the_frames_that_both_have_are_compared(self, decoded_frames: int, original_frames: int) -> None:
        video = moving_noise(12)
        assert psnr_per_clip(video[:, :decoded_frames], video[:, :original_frames]).item() == 100.0

    def test_a_shift_by_three_frames_ruins_it(self) -> None:
        video = moving_noise(12)
        aligned = psnr_per_clip(video[:, :9] + 0.01, video).item()
        shifted = psnr_per_clip(video[:, 3:] + 0.01, video).item()
        assert aligned > 35
        assert shifted < 15

    def test_frames_in_0_to_255_do_not_pass_for_good_ones(self) -> None:
        video = moving_noise(4)
        assert psnr_per_clip(video, video * 255).item() < 0

    def test_nan_in_the_output_is_nan_in_the_metric(self) -> None:
        assert psnr_per_clip(grey(float("nan")), grey(0.5)).isnan().all()

    @pytest.mark.parametrize("shape", [(1, 4, 3, 16, 8), (2, 4, 3, 16, 16), (1, 0, 3, 16, 16)])
    def test_videos_of_different_shape_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="differ in T at most"):
            psnr_per_clip(torch.zeros(shape), torch.zeros(1, 4, 3, 16, 16))


class TestSsim:
    def test_it_is_the_reference_implementation_per_frame(self) -> None:
        frames = moving_noise(5)
        decoded = (frames + 0.1 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
        reference = pytorch_msssim.SSIM(data_range=1.0, win_size=11, win_sigma=1.5, channel=3)
        wanted = sum(reference(decoded[:, j], frames[:, j]).item() for j in range(5)) / 5
        assert ssim_per_clip(decoded, frames).item() == pytest.approx(wanted, abs=1e-6)
        assert 0.1 < wanted < 0.9

    def test_it_clamps_and_compares_common_frames_only(self) -> None:
        frames = moving_noise(12).round()  # black and white: +-1 leaves the image as it is after the clamp
        decoded = (frames * 3 - 1)[:, :9]
        assert ssim_per_clip(decoded, frames).item() == pytest.approx(1.0, abs=1e-6)

    def test_images_in_minus_one_to_one_would_not_give_the_same_number(self) -> None:
        frames = moving_noise(3)
        decoded = (frames + 0.1 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
        right = ssim_per_clip(decoded, frames).item()
        in_other_range = pytorch_msssim.ssim((decoded * 2 - 1)[0], (frames * 2 - 1)[0], data_range=1.0).item()
        assert abs(right - in_other_range) > 0.01

    def test_images_smaller_than_the_window_are_an_error(self) -> None:
        with pytest.raises(MetricError, match="at least 11x11 pixels, got 8x16"):
            ssim_per_clip(torch.zeros(1, 2, 3, 8, 16), torch.zeros(1, 2, 3, 8, 16))


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty TORCH_HOME; returns the folder of the backbones in it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints


@pytest.fixture
def alexnet_file(torch_home: Path) -> Path:
    """An AlexNet, with weights that mean nothing, where the published one would be."""
    torch.manual_seed(0)
    path = torch_home / "alexnet-owt-7be5be79.pth"
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    return path


class TestLpips:
    def test_without_weights_the_metric_is_absent_and_asking_for_it_is_an_error(self, torch_home: Path) -> None:
        assert lpips_backbone_file("alex") is None
        assert lpips_backbone_file("vgg") is None
        with pytest.raises(MetricError, match="alexnet-owt-7be5be79"):
            Lpips("alex", "cpu")

    def test_weights_are_found_where_they_belong(self, alexnet_file: Path) -> None:
        assert lpips_backbone_file("alex") == alexnet_file
        assert lpips_backbone_file("vgg") is None

    def test_damaged_weights_are_an_error_that_names_the_file(self, torch_home: Path) -> None:
        path = torch_home / "alexnet-owt-7be5be79.pth"
        path.write_bytes(b"not weights")
        with pytest.raises(MetricError, match=str(path)):
            Lpips("alex", "cpu")

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_images_reach_the_network_in_minus_one_to_one(self, alexnet_file: Path) -> None:
        frames = moving_noise(4, size=64)
        decoded = (frames[:, :3] + 0.2 * torch.randn(1, 3, 3, 64, 64, generator=torch.Generator().manual_seed(1))) * 1.5
        network = lpips.LPIPS(net="alex", verbose=False)
        clamped, original = decoded.clamp(0, 1)[0], frames[0, :3]
        with torch.no_grad():
            right = network(clamped * 2 - 1, original * 2 - 1).mean().item()
            wrong = network(clamped, original).mean().item()
        measured = Lpips("alex", "cpu").per_clip(decoded, frames)
        assert measured.shape == (1,)
        assert measured.item() == pytest.approx(right, rel=1e-5)
        assert measured.item() != pytest.approx(wrong, rel=1e-2)

    def test_an_exact_copy_is_at_distance_zero(self, alexnet_file: Path) -> None:
        frames = torch.cat([moving_noise(2, size=64), moving_noise(2, size=64).flip(-1)])
        assert Lpips("alex", "cpu").per_clip(frames, frames).tolist() == [0.0, 0.0]
