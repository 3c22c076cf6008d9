"""What `dbc doctor` says between a GPU and its first renter."""

from dataclasses import replace
from pathlib import Path

from tests.cli.market import INVENTORY

from deepbrain.cli.doctor import _gpus
from deepbrain.provider.gpus import FakeDriver, Gpu, Nvml
from deepbrain.provider.identity import AgentConfig
from deepbrain.provider.inventory import Inventory, take_inventory

H100 = Gpu("GPU-11111111-aaaa", "NVIDIA H100 80GB HBM3", 81_559)
SLICED = replace(H100, uuid="GPU-22222222-bbbb", unfit="it is cut into slices (MIG)")


def said(inventory: Inventory, *devices: str) -> dict[str, tuple[bool, str]]:
    capacity = replace(INVENTORY.capacity(), devices=devices)
    config = AgentConfig(chain="ws://x", controller="//Bob", port=1, capacity=capacity)
    return {each.name: (each.ok, each.detail) for each in _gpus(inventory, config)}


def test_without_gpus_cores_are_offered(tmp_path: Path) -> None:
    assert said(take_inventory(tmp_path, FakeDriver())) == {
        "GPUs": (True, "none; cores are offered")
    }


def test_gpus_that_are_not_offered_are_a_finding(tmp_path: Path) -> None:
    inventory = take_inventory(tmp_path, FakeDriver((H100, SLICED)))
    found = said(inventory)
    assert found["GPUs"] == (True, f"{H100.model}, {H100.model}")
    assert found[f"GPU {SLICED.uuid}"] == (False, SLICED.unfit)
    assert found["GPUs offered"] == (False, "none")
    assert "GPU devices" in found
    both = said(inventory, "nvidia.com/gpu=0", "nvidia.com/gpu=1")
    assert both["GPUs offered"] == (True, "nvidia.com/gpu=0, nvidia.com/gpu=1")


def test_a_driver_that_cannot_be_asked_is_a_finding(tmp_path: Path) -> None:
    class Deaf:
        class NVMLError(Exception):
            value = 999

        NVML_ERROR_LIBRARY_NOT_FOUND = NVML_ERROR_DRIVER_NOT_LOADED = 9

        def __getattr__(self, _name: str) -> object:
            def fail(*_: object) -> None:
                raise self.NVMLError("no answer")

            return fail

    ok, detail = said(take_inventory(tmp_path, Nvml(Deaf())))["GPUs"]
    assert not ok
    assert "does not answer" in detail
