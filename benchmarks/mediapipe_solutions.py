"""Runs MediaPipe's own solutions on pictures, in an environment of their own: mediapipe_solutions.py OUT.npz [PICTURES.npy].

The package that is imported is the one on PYTHONPATH: with other ``.tflite`` files in it, the solutions run those. Without
pictures, scikit-image's astronaut is taken; OUT.npz holds them beside what is found in each, landmarks in pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import mediapipe as mp
import numpy as np

solutions = mp.solutions


def pixels(landmarks: Iterable[Any], image: np.ndarray) -> np.ndarray:
    """Return the landmarks of one object in pixels, ``[landmark, (x, y)]``; of none where there is no object."""
    height, width = image.shape[:2]
    return np.array([[point.x * width, point.y * height] for point in landmarks], np.float32).reshape(-1, 2)


def face_mesh(image: np.ndarray) -> np.ndarray:
    with solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=False) as net:
        found = net.process(image).multi_face_landmarks
    return pixels(found[0].landmark if found else (), image)


def face_detection(model: int) -> Callable[[np.ndarray], np.ndarray]:
    def run(image: np.ndarray) -> np.ndarray:
        with solutions.face_detection.FaceDetection(model_selection=model) as net:
            found = net.process(image).detections
        return pixels(found[0].location_data.relative_keypoints if found else (), image)

    return run


def hands(complexity: int) -> Callable[[np.ndarray], np.ndarray]:
    def run(image: np.ndarray) -> np.ndarray:
        with solutions.hands.Hands(static_image_mode=True, model_complexity=complexity) as net:
            found = net.process(image).multi_hand_landmarks
        return pixels(found[0].landmark if found else (), image)

    return run


def pose(image: np.ndarray) -> np.ndarray:
    """Return the points with a third number, how likely each is seen: a body's hidden points are guesses."""
    with solutions.pose.Pose(static_image_mode=True, model_complexity=1) as net:
        found = net.process(image).pose_landmarks
    points = found.landmark if found else ()
    return np.column_stack([pixels(points, image), [point.visibility for point in points]]).astype(np.float32)


def selfie(model: int) -> Callable[[np.ndarray], np.ndarray]:
    def run(image: np.ndarray) -> np.ndarray:
        with solutions.selfie_segmentation.SelfieSegmentation(model_selection=model) as net:
            return np.asarray(net.process(image).segmentation_mask)

    return run


SOLUTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "FaceMesh": face_mesh,
    "FaceDetection (short range)": face_detection(0),
    "FaceDetection (full range)": face_detection(1),
    "Hands (lite)": hands(0),
    "Hands (full)": hands(1),
    "Pose": pose,
    "SelfieSegmentation": selfie(0),
    "SelfieSegmentation (landscape)": selfie(1),
}


def main() -> None:
    if len(sys.argv) > 2:
        pictures = np.load(sys.argv[2])
    else:
        from skimage import data

        pictures = data.astronaut()[None]
    found = {"pictures": pictures}
    for name, run in SOLUTIONS.items():
        for i, image in enumerate(pictures):
            try:
                found[f"{name} {i}"] = run(image)
            except RuntimeError as error:  # the runtime of this version refuses the file
                found[f"{name} {i}"] = np.array(str(error).strip().splitlines()[-1])
    np.savez(sys.argv[1], **found)


if __name__ == "__main__":
    main()
