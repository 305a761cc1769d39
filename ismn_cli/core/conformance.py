"""What the harness asks of a model, a defence, an attack and a data set of somebody's own, rule by rule. No torch here.

`ismn_cli.testing` asks; this says what is asked, what breaks the rule, and what to do then. A model is asked the
doctor's questions too, those that need no labels; see `ismn_cli.core.checks`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ismn_cli.core.findings import Check

SOURCE = "ismn_cli.testing"


def _rule(code: str, name: str, asks: str, flags: str, remedy: str) -> Check:
    return Check(code, name, asks, flags, remedy, SOURCE)


_MODELS = (
    _rule(
        "CM01",
        "logits",
        "Does the model answer images with logits?",
        "it raises, or returns anything but a float32 tensor [N, K] with two classes or more, one for each of the "
        "data's where these are known",
        "Take float32 images [N, C, H, W] with pixels in [0, 1], in evaluation mode, and return the logits alone.",
    ),
    _rule(
        "CM02",
        "leaves-alone",
        "Does a pass leave everything else as it was?",
        "images, weights, modes, the gradient mode or another global setting differ after a pass, or it reseeds the "
        "global random generators",
        "Compute without changing what is given; draw from the global generators, and never seed them.",
    ),
    _rule(
        "CM03",
        "devices",
        "Can the model be moved to another device?",
        "a pass mixes tensors of two devices after model.to(...)",
        "Register constants with register_buffer, and make new tensors on x.device.",
    ),
)
_DEFENCES = (
    _rule(
        "CD01",
        "contract",
        "Is it a Defence, with a policy and declarations that mean something?",
        "no `ismn_models.pipeline.Defence`, super().__init__() not called, a policy other than pass, reform, reject or "
        "route, or a declaration (differentiable, randomised) that is not true or false",
        "Derive from ismn_models.pipeline.Defence, call super().__init__() and set policy as a class attribute.",
    ),
    _rule(
        "CD02",
        "reform",
        "Does reform(x) return images?",
        "another shape or type than x, pixels outside [0, 1] or not finite",
        "End reform with .clamp(0, 1), and keep the shape [N, C, H, W] and the type of x.",
    ),
    _rule(
        "CD03",
        "score",
        "Does score(x, classify) return one number for each image?",
        "another shape than [N], or numbers that are not finite",
        "Return a float tensor [N]; higher is more suspicious.",
    ),
    _rule(
        "CD04",
        "decide",
        "Does decide(x, classify) return a Decision for N images?",
        "no Decision; logits that are not finite [N, K]; flagged or rejected that are not bool [N]; score not [N]; "
        "loops not int64 [N]",
        "Return Decision(logits, flagged, rejected, score, loops), each with one entry for each image.",
    ),
    _rule(
        "CD05",
        "policy",
        "Does it do with a suspicious image what its policy says?",
        "images are rejected that were not flagged, or under another policy than reject; flagged without a detector",
        'Set policy = "reject" where a flagged image is refused, "route" where it takes another path.',
    ),
    _rule(
        "CD06",
        "calibrate",
        "Does calibrate(batches, classify) fit a threshold that works?",
        "it raises, or gives another result the second time; a detector flags nothing at all, or (warning) most clean "
        "images",
        "Fit self.threshold with self.threshold.copy_(...) to a quantile of the scores of clean images, from these "
        "images alone.",
    ),
    _rule(
        "CD07",
        "trace",
        "Does trace(x, classify) show the way that decide takes?",
        "waypoints of another form, or a last picture whose logits are not those of the decision",
        "Whoever overrides decide overrides trace: the classifier answers on the last picture taken.",
    ),
    _rule(
        "CD08",
        "surrogates",
        "Can an attacker who knows the defence go through it?",
        "no surrogate, logits of another form, or a gradient that is missing, zero or not finite",
        "Name in surrogates() functions with a gradient; straight_through (BPDA) passes a step that has none.",
    ),
    _rule(
        "CD09",
        "differentiable",
        "Is `differentiable` declared as it is?",
        "declared, though reform has no gradient; a warning where it has one and is declared not to",
        "Set differentiable = False where reform rounds, sorts, encodes or detaches: the attacker then gets BPDA.",
    ),
    _rule(
        "CD10",
        "randomised",
        "Is `randomised` declared as it is?",
        "answers differ between seeds without the declaration, or never do with it",
        "Set randomised = True where decide draws at random, and only there: attacks then average over draws (EOT).",
    ),
    _rule(
        "CD11",
        "repeatable",
        "Does it answer alike under the same seed?",
        "two answers to the same images differ with the global generators seeded alike",
        "Draw from torch's global generators, not from a generator of your own, and keep no state between calls.",
    ),
    _rule(
        "CD12",
        "margin",
        "Does the margin that an attacker follows say what is flagged?",
        "a surrogate's margin is 0 or more where nothing is flagged, or below 0 where something is",
        "Return margin = score - threshold from the surrogate: 0 and more is flagged.",
    ),
    _rule(
        "CD13",
        "batch-independence",
        "Is an image answered alike alone and among others?",
        "logits or scores of an image change with what else is in the batch",
        "Take no statistics over the batch: a mean, a quantile or a sort along N.",
    ),
    _rule(
        "CD14",
        "state-dict",
        "Does state_dict() hold all that was fitted?",
        "loaded into a fresh copy, it gives other answers, or cannot be loaded",
        "Keep what calibrate fits in buffers (register_buffer, self.threshold.copy_), not in plain attributes.",
    ),
    _rule(
        "CD15",
        "deep-copy",
        "Can it be copied?",
        "copy.deepcopy raises, or the copy answers otherwise or shares tensors with the original",
        "Hold no open files, generators or tensors with a history as attributes.",
    ),
    _rule(
        "CD16",
        "leaves-alone",
        "Does a decision leave everything else as it was?",
        "images, weights, buffers, modes, the gradient mode or another global setting differ after decide, or it "
        "reseeds the global random generators",
        "Compute without changing what is given; draw from the global generators, and never seed them.",
    ),
    _rule(
        "CD17",
        "devices",
        "Can it be moved to another device?",
        "a decision mixes tensors of two devices after .to(...)",
        "Register constants with register_buffer, and make new tensors on x.device.",
    ),
    _rule(
        "CD18",
        "surrogates-agree",
        "Does what the attacker goes through answer as the system does?",
        "no surrogate gives the system's answer on most images (warning)",
        "Keep one surrogate exact in the forward pass, such as straight_through(self.reform).",
    ),
)
_ATTACKS = (
    _rule(
        "CA01",
        "runs",
        "Does the attack run?",
        "it raises on ten images of several classes",
        "Take (model, x, y, eps) with x float32 [N, C, H, W] in [0, 1]; parameters of its own have defaults.",
    ),
    _rule(
        "CA02",
        "images",
        "Does it return images of the same shape?",
        "no tensor, another shape than x, or whole numbers",
        "Return the adversarial images as a float tensor of the shape of x.",
    ),
    _rule(
        "CA03",
        "finite",
        "Are its images finite?",
        "NaN or infinity in what it returns",
        "Look for divisions by a gradient's norm that may be zero.",
    ),
    _rule(
        "CA04",
        "ball",
        "Does it keep to the perturbation size?",
        "an image lies further from the original than eps in the threat's norm",
        "Project at the end: x + (x_adv - x).clamp(-eps, eps) in L-inf; scale the difference down in L2.",
    ),
    _rule(
        "CA05",
        "box",
        "Does it keep pixels in [0, 1]?",
        "pixels below 0 or above 1",
        "End with .clamp(0, 1).",
    ),
    _rule(
        "CA06",
        "model-untouched",
        "Does it leave the model as it was?",
        "weights, buffers, train or eval mode, requires_grad or parameter gradients differ afterwards",
        "Differentiate with torch.autograd.grad with respect to the image, and put back any mode that you switch.",
    ),
    _rule(
        "CA07",
        "inputs-untouched",
        "Does it leave the images and labels that it is given as they were?",
        "x or y differ afterwards",
        "Work on x.clone(): in-place operations on x change the caller's images.",
    ),
    _rule(
        "CA08",
        "globals-untouched",
        "Does it leave global settings and random generators alone?",
        "the gradient mode or another global setting differs afterwards, or it reseeds the global generators",
        "Use `with torch.enable_grad():` instead of set_grad_enabled, and never call manual_seed.",
    ),
    _rule(
        "CA09",
        "repeatable",
        "Does it find the same under the same seed?",
        "two runs with the global generators seeded alike differ",
        "Draw from torch's global generators, and keep no state between calls.",
    ),
    _rule(
        "CA10",
        "eps-zero",
        "Does it take a perturbation size of 0?",
        "it raises, or returns anything but the images as they were",
        "Divide by nothing that is 0 with eps; return x.",
    ),
    _rule(
        "CA11",
        "one-image",
        "Does it take a single image?",
        "it raises on a batch of one, or returns another shape",
        "Use no squeeze() without a dimension; the last batch of a data set may hold one image.",
    ),
    _rule(
        "CA12",
        "two-classes",
        "Does it work for two classes?",
        "it raises on a model with two logits, or returns NaN or another shape",
        "Losses that sort the logits (DLR) need three or four of them: fall back to the margin.",
    ),
    _rule(
        "CA13",
        "larger-eps",
        "Does a larger perturbation do more harm?",
        "on a linear classifier no more images are broken at 16 times the size, where all of them can be",
        "Scale step size and projection with eps.",
    ),
    _rule(
        "CA14",
        "optimum",
        "Does it find what is known to be there?",
        "less than half of the images are broken that lie within half of eps of a linear classifier's boundary; a "
        "warning where it is not all of them",
        "Check the sign of the loss (attacks go up), the step size, and that x has a gradient.",
    ),
)
_DATASETS = (
    _rule(
        "CS01",
        "images",
        "Are there images to test on that a model can take?",
        "no test split; a split without images; images that are not [C, H, W] or [H, W, C] with 1 or 3 channels, or "
        "not all with as many",
        "Return (pixels, labels) with pixels [N, C, H, W], or a torch Dataset of (image, label).",
    ),
    _rule(
        "CS02",
        "pixels",
        "Are pixels whole grey levels, or floats in [0, 1]?",
        "another type than uint8 or float, floats outside [0, 1] or not finite; grey levels that never exceed 1",
        "Give uint8 of 0 to 255, or floats divided by 255; leave normalisation to the model (--mean, --std).",
    ),
    _rule(
        "CS03",
        "labels",
        "Has every image one label, a whole number from 0?",
        "another count than images, other types than integers, negative ones, or one beyond the classes",
        "Give integers 0 to K-1, one for each image, in the order of the images.",
    ),
    _rule(
        "CS04",
        "classes",
        "Are the names of the classes one for each label?",
        "`classes` with fewer names than labels, or a name twice",
        "Set classes to K distinct names in the order of the labels.",
    ),
    _rule(
        "CS05",
        "coverage",
        "Does every class occur in every split?",
        "a class without an image in one of the splits",
        "Stratify the splits: a class that is missing is never attacked, and one in training never learnt.",
    ),
    _rule(
        "CS06",
        "disjoint",
        "Are the splits disjoint?",
        "an image of one split is, byte for byte, in another too",
        "Split by content: what was trained on must not be tested on. Does it look at `split` at all?",
    ),
    _rule(
        "CS07",
        "stable",
        "Does loading it again give the same images in the same order?",
        "pixels, labels or their order differ between two loads",
        "Sort the files, shuffle with a seed of your own, and augment nothing.",
    ),
    _rule(
        "CS08",
        "duplicates",
        "Is every image there once?",
        "images that occur several times in a split (warning)",
        "Drop copies: they count as independent samples in every interval.",
    ),
)
RULES: Mapping[str, Check] = {rule.code: rule for rule in (*_MODELS, *_DEFENCES, *_ATTACKS, *_DATASETS)}
"""All rules by code."""
