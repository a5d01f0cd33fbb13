"""SAM's mask decoder in PyTorch, to hold `kirie bench decoder` and `kirie bench everything` against.

    pip install torch torchvision segment-anything
    python crates/sam/peers/decoder_pytorch.py --prompts 64 --repeat 5
    python crates/sam/peers/decoder_pytorch.py --everything --points-per-side 32 --repeat 1

Meta's own code with weights by chance: the decoder's time does not depend on them. The embedding is random too, 256 x 64 x 64, for a picture
of 1024x683. The first form times what `kirie bench decoder` does: prompts of one point, three masks each, low-resolution logits. The second is the
whole of Meta's mask generator but the encoder (whose place a function takes that returns the embedding at once), with the filters open, as with weights by
chance no mask would pass: `kirie bench everything --model efficientvit-sam-l0` less `kirie bench encoder`. Prints JSON.
"""

import argparse
import json
import statistics
import time

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer


class Stub(torch.nn.Module):
    """An encoder that knows its answer."""

    img_size = 1024

    def __init__(self):
        super().__init__()
        self.register_buffer("embedding", torch.randn(1, 256, 64, 64))

    def forward(self, _):
        return self.embedding


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--everything", action="store_true")
    parser.add_argument("--points-per-side", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = Sam(
        image_encoder=Stub(),
        prompt_encoder=PromptEncoder(
            embed_dim=256, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=16
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
            transformer_dim=256,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    ).eval()

    points = torch.rand(arguments.prompts, 1, 2) * torch.tensor([1024.0, 683.0])
    labels = torch.ones(arguments.prompts, 1)
    positions = model.prompt_encoder.get_dense_pe()
    picture = np.random.default_rng(0).integers(0, 255, (683, 1024, 3), dtype=np.uint8)
    generator = SamAutomaticMaskGenerator(
        model, points_per_side=arguments.points_per_side, pred_iou_thresh=0.0, stability_score_thresh=0.0
    )

    def decode():
        sparse, dense = model.prompt_encoder(points=(points, labels), boxes=None, masks=None)
        model.mask_decoder(
            image_embeddings=model.image_encoder.embedding,
            image_pe=positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )

    run = (lambda: generator.generate(picture)) if arguments.everything else decode
    times = []
    with torch.inference_mode():
        if not arguments.everything:
            run()
        for _ in range(arguments.repeat):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    what = "everything" if arguments.everything else f"{arguments.prompts} prompts"
    print(
        json.dumps({
            "what": what,
            "torch": torch.__version__,
            "threads": arguments.threads,
            "median": statistics.median(times),
            "times": times,
        })
    )


main()
