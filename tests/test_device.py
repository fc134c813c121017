import pytest
import torch

from vilg.device import DeviceError, choose_device, described, moved

NONE = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


def test_a_name_is_a_device() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device(torch.device("cpu")) == torch.device("cpu")
    assert described(torch.device("cpu")) == "cpu"


@pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is an accelerator"
)
def test_auto_is_the_cpu_where_there_is_nothing_else() -> None:
    assert choose_device() == choose_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "meta", "CUDA"])
def test_an_unknown_name_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(DeviceError, match=r"no device is called .*; there are auto, cpu, cuda, "):
        choose_device(name)


@NONE
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_what_is_not_there_is_said(name: str) -> None:
    with pytest.raises(DeviceError, match=r"asked for, and .*take (another, or )?cpu|or take cpu"):
        choose_device(name)


@pytest.mark.gpu
def test_cuda_is_found_where_it_is() -> None:
    count = torch.cuda.device_count()
    assert choose_device() == choose_device("cuda") == torch.device("cuda", 0)
    assert choose_device("cuda", index=count - 1) == torch.device("cuda", count - 1)
    with pytest.raises(DeviceError, match=f"cuda:{count} was asked for, and there are {count}"):
        choose_device(f"cuda:{count}")


def test_a_tensor_moves_to_where_the_model_is() -> None:
    assert moved(torch.ones(2), torch.device("meta")).device.type == "meta"
    x = torch.ones(2)
    assert moved(x, torch.device("cpu")) is x
