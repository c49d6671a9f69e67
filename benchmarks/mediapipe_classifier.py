"""Runs in MediaPipe's own environment: writes metadata into a classifier, or names the labels of pictures by a classifier.

python mediapipe_classifier.py write FLOAT.tflite LABELS.txt OUT.tflite
python mediapipe_classifier.py classify PICTURES.npz MODEL.tflite OUT.json
"""

import json
import sys
from pathlib import Path

import numpy as np


def write(source: str, labels: str, target: str) -> None:
    """Write labels and the normalization of pixels by MediaPipe's metadata writer."""
    from mediapipe.tasks.python.metadata.metadata_writers import image_classifier, metadata_writer

    names = metadata_writer.Labels().add(Path(labels).read_text().splitlines())
    made = image_classifier.MetadataWriter.create(bytearray(Path(source).read_bytes()), [127.0], [128.0], names)
    Path(target).write_bytes(made.populate()[0])


def classify(pictures: str, model: str, target: str) -> None:
    """Write the three best labels, and their scores, of each picture."""
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=model), max_results=3)
    found = []
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for pixels in np.load(pictures)["pictures"]:
            image = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(pixels))
            best = classifier.classify(image).classifications[0].categories
            found.append([(category.category_name, category.score) for category in best])
    Path(target).write_text(json.dumps(found))


if __name__ == "__main__":
    {"write": write, "classify": classify}[sys.argv[1]](*sys.argv[2:])
