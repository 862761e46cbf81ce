"""AdamW under Ray's hooks: a training that is resumed from a checkpoint's file has the bits of an uninterrupted one."""

from pathlib import Path

from helpers.contract import Make, training
from helpers.engines import assert_same_bits, copy_state

ADAMW = {"optimizer": "adamw", "lr": 0.002, "weight_decay": 0.1, "warmup_epochs": 1}


def test_a_checkpoint_holds_the_whole_state_of_adamw(make: Make, tmp_path: Path) -> None:
    settings = {key: value for key, value in training(3).items() if key != "momentum"} | ADAMW
    whole, resumed = make("adversarial", training=settings), make("adversarial", training=settings)
    whole.step()
    whole.save_checkpoint(str(tmp_path))
    resumed.load_checkpoint(str(tmp_path))
    assert_same_bits(copy_state(resumed.trainer), copy_state(whole.trainer))
    assert whole.trainer.run_epoch() == resumed.trainer.run_epoch()
    assert_same_bits(copy_state(resumed.trainer), copy_state(whole.trainer))
