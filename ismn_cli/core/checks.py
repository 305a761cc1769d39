"""The checks of the audit by code: what each asks, what it flags, what to do, and who proposed it. No torch here.

Rates are compared with the tolerance that their sample size gives: "significantly" means by a one-sided exact test
on the same images (McNemar's) at the 5 % level, or a Wilson interval that leaves the tolerance out. A difference in
the wrong direction that is not significant is a warning.
"""

from __future__ import annotations

from collections.abc import Mapping

from ismn_cli.core.errors import unknown_name
from ismn_cli.core.findings import Check

CARLINI = "Carlini et al. 2019, arXiv 1902.06705"
AUTOATTACK = "AutoAttack's checks: Croce and Hein 2020, arXiv 2003.01690"
PINTOR = "Pintor et al. 2022, arXiv 2106.09947"

_EVALUATION = (
    Check(
        "EV01",
        "worst-case",
        "Is a sample called robust only if it outlives every attack that was run on it?",
        "the report of a system that several attacks ran on has no per-sample worst case",
        "Report the mean over samples of the minimum over attacks: `ismn report` does.",
        CARLINI,
    ),
    Check(
        "EV02",
        "undefended-breaks",
        "Does the same attack break the same classifier without its defence?",
        "the undefended classifier keeps significantly more than 5 % under a gradient attack at 8/255 or more",
        "An attack that cannot break an undefended classifier says nothing about a defence: more steps, another step "
        "size; or the classifier is hardened itself, and the defence's part is the difference to it.",
        CARLINI,
    ),
    Check(
        "EV03",
        "held-out-attack",
        "Does the system hold against attacks that it was not trained on?",
        "accuracy under another attack of the same size and level is significantly more than 20 points lower than "
        "under FGSM or PGD",
        "Quote the worst attack; the defence has learnt its training attacks.",
        CARLINI,
    ),
    Check(
        "EV04",
        "knowledge-order",
        "Does an attacker who knows more do at least as much harm, sample by sample?",
        "any sample that a weaker attacker broke and a stronger one did not (warning); significantly more harm by "
        "the weaker (failure)",
        "The stronger attack is too weak there: more steps, restarts, another loss, BPDA or EOT. Until then the lower "
        "figure is the honest one.",
        CARLINI,
    ),
    Check(
        "EV05",
        "collapsed",
        "Does the system give different answers to different images?",
        "nine tenths of the clean images get one answer, and the others less than half as many as there are images of "
        "other classes",
        "A constant cannot be attacked: train again, and look at clean accuracy first.",
        CARLINI,
    ),
)
_MASKING = (
    Check(
        "GM01",
        "single-step-wins",
        "Are many small steps at least as strong as one large step?",
        "accuracy under PGD or another iterated attack is above that under FGSM, same size, same level",
        "A sign of masked gradients or of a wrong step size: lower the step, start at random, look at GM03.",
        CARLINI,
    ),
    Check(
        "GM02",
        "monotone-eps",
        "Does a larger perturbation do at least as much harm?",
        "accuracy rises with eps under the same attack",
        "Larger balls hold the smaller ones: scale steps and step size with eps.",
        CARLINI,
    ),
    Check(
        "GM03",
        "zero-gradient",
        "Does every image have a gradient to follow?",
        "the loss, or the margin between the logits, has no gradient, not even a tiny one, on any image that is "
        "answered right",
        "Attack without the step that hides it: BPDA, the margin loss, logits divided by a temperature, Square.",
        AUTOATTACK,
    ),
    Check(
        "GM04",
        "large-eps",
        "Does a perturbation that can erase the picture erase its accuracy?",
        "accuracy at L-inf 0.5 significantly above guessing, or any accuracy at all at eps 1",
        "At 0.5 every image can be made the same grey: an attack that fails there is broken at 8/255 too.",
        CARLINI,
    ),
    Check(
        "GM05",
        "gradient-free-wins",
        "Do attacks with gradients find all that an attack without them finds?",
        "Square breaks a sample that the gradient attacks of that size left (warning), or significantly more than "
        "0.2 % of them (failure)",
        "The gradients are of no use to the attacker: BPDA, EOT, other losses.",
        f"{CARLINI}; {AUTOATTACK}",
    ),
    Check(
        "GM06",
        "transfer-wins",
        "Does attacking the system itself do at least as much harm as examples made on another?",
        "transferred examples break samples that a white-box or adaptive attack left, significantly more than 1 %",
        "The gradients of the system mislead: go through surrogates (adaptive), start from transferred examples.",
        CARLINI,
    ),
    Check(
        "GM07",
        "noise-wins",
        "Is random noise of the same size harmless where the attack failed?",
        "noise breaks a sample that the attacks left",
        "An attack that misses what chance finds is not optimising: see GM03 and AT03.",
        CARLINI,
    ),
    Check(
        "GM08",
        "probabilities",
        "Does the model return logits?",
        "all outputs within [0, 1] with sums of 1 to 1e-5; a single output within [0, 1]",
        "Return logits: losses on probabilities have vanishing gradients. Take the softmax out of the model.",
        AUTOATTACK,
    ),
    Check(
        "GM09",
        "gradient-inside",
        "Does the model compute gradients itself while it answers?",
        "automatic differentiation is called in the forward pass",
        "Answers that are optimised at test time need attacks through that optimisation, unrolled or by BPDA.",
        AUTOATTACK,
    ),
    Check(
        "GM10",
        "unavailable-gradient",
        "Is there an unbroken path from the answer back to the pixels?",
        "the graph is interrupted, or the input's gradient is exactly zero, on any sample",
        "A step without gradient hides the rest: pass it by the identity (BPDA), or attack the part behind it.",
        f"{PINTOR}, indicator I1",
    ),
    Check(
        "GM11",
        "unstable",
        "Is the loss smooth enough around an image for a gradient to mean something?",
        "mean over 100 random points within 4/255 of the image of |L(x) - L(x+u)| / |L(x)|, capped at 1, for the "
        "margin between the logits as L: its median over images above 0.3 (warning) or 0.5 (failure)",
        "Average the gradient over draws (EOT) or smooth the loss.",
        f"{PINTOR}, indicator I2",
    ),
    Check(
        "GM12",
        "logit-scale",
        "Is the attack's success independent of the scale of the logits?",
        "cross-entropy, cross-entropy on scaled logits and the margin loss leave accuracies significantly more than "
        "1 point apart",
        "Use the lowest. Large logits saturate the softmax: attack logits divided by a temperature, or the margin.",
        "Carlini and Wagner 2016, arXiv 1607.04311",
    ),
)
_RANDOMNESS = (
    Check(
        "RN01",
        "fixed-randomness",
        "Does the attack succeed once the system's randomness is held still?",
        "a randomised system with its draws fixed keeps significantly more than the averaged attack leaves it",
        "The attack is too weak, not the randomness strong: repair it before averaging.",
        CARLINI,
    ),
    Check(
        "RN02",
        "randomised",
        "Does the same image get the same answer every time?",
        "five passes over the same images differ by more than 1e-4 in normalised logits, or in the number right; a "
        "warning where the system says so itself, since attacks on it are then averaged",
        "Average over draws (EOT, `--eot N`, autoattack version=rand), and state how often a sample is judged.",
        AUTOATTACK,
    ),
)
_ATTACKS = (
    Check(
        "AT01",
        "converged",
        "Does the attack find nothing more with twice the effort?",
        "twice the steps, or twice the restarts, break more samples: any (warning), significantly more than 0.5 % "
        "(failure)",
        "Quote the figure of the longer attack, and double again until nothing changes.",
        CARLINI,
    ),
    Check(
        "AT02",
        "silent-success",
        "Does the attack return the best point that it passed?",
        "an adversarial point lies on the path of a sample whose returned point is not adversarial: any (warning), "
        "on significantly more than 0.5 % of the samples (failure)",
        "Keep the best iterate of each sample instead of the last.",
        f"{PINTOR}, indicator I3",
    ),
    Check(
        "AT03",
        "incomplete-optimisation",
        "Had the attack finished when it stopped?",
        "on more than half of the samples that the attack left (significantly: failure), the loss, made monotone and "
        "rescaled to [0, 1], still moves by more than 0.05 over the last 10 iterations, or the second half of fewer "
        "than 20",
        "More steps, or a larger step size.",
        f"{PINTOR}, indicator I4",
    ),
    Check(
        "AT04",
        "transfer-failure",
        "Do examples that fool what was attacked fool what is judged?",
        "the attacked stand-in is fooled and the system is not: any (warning), significantly more than 1 % (failure)",
        "The stand-in is not the system: go through the system itself (white, adaptive), or a better surrogate.",
        f"{PINTOR}, indicator I5",
    ),
    Check(
        "AT05",
        "unbounded-fails",
        "Does the attack succeed when every image is allowed?",
        "any sample outlives the attack at L-inf eps 1",
        "The gradients lead nowhere: see GM03, GM10 and GM12.",
        f"{PINTOR}, indicator I6",
    ),
    Check(
        "AT06",
        "label-leaking",
        "Does the attack smuggle the true label into the picture?",
        "accuracy under FGSM with the true label significantly more than 2 points above that with the predicted "
        "label, or above clean accuracy",
        "Make the examples with the predicted label, in training above all, or use an iterated attack.",
        "Kurakin et al. 2017, arXiv 1611.01236",
    ),
    Check(
        "AT07",
        "self-test",
        "Does the attack work at all?",
        "the attack falls significantly short of its stated success on an undefended classifier, or on one with a weak "
        "defence that is known to fall; the cells of such an attack are unreliable",
        "Correct the attack or its parameters (steps, step size, sign, pixel range) before any defence is scored.",
        CARLINI,
    ),
    Check(
        "AT08",
        "left-threat-model",
        "Did every attacked image stay within the threat model?",
        "any sample on which the attack crashed, returned NaN or left the ball; it counts as unknown, not as robust",
        "Correct the attack: eps is in pixels of [0, 1], applied before any normalisation.",
        "the harness",
    ),
)
_DETECTORS = (
    Check(
        "DT01",
        "detector-figures",
        "Are a detector's costs told: what it refuses of the harmless, and its ROC?",
        "a system that refuses or routes has no false-positive rate or AUROC beside its accuracy",
        "Report clean accuracy, false-positive rate and ROC: `ismn report` does for systems with a score.",
        CARLINI,
    ),
    Check(
        "DT02",
        "threshold-fixed",
        "Was the detector's threshold set once, before any attack?",
        "the flags of a system's cells cannot come from one threshold",
        "Fit the threshold on clean validation images at a stated false-positive rate, once, and freeze it.",
        "Carlini 2019, on DEEPSEC",
    ),
)
_CLAIMS = (
    Check(
        "CL01",
        "ceiling",
        "Is the figure possible at all?",
        "accuracy above what any classifier that always answers can reach on these images, by images of different "
        "classes within 2 eps of each other",
        "Not robustness: look for refusals counted as successes, another scale of eps, or too weak an attack.",
        "Bhagoji et al. 2019, arXiv 1909.12272",
    ),
    Check(
        "CL02",
        "rejection-claim",
        "Is a refusing system's figure plausible beside what classifiers reach at half the size?",
        "rejected = success at eps significantly above the best classifier's robust accuracy at eps/2 on record",
        "A detector robust at eps gives a classifier robust at eps/2: such a figure would be a record twice over.",
        "Tramer 2022, arXiv 2107.11630",
    ),
    Check(
        "BT01",
        "binarization",
        "Does the attack find an adversarial example where one is known to exist?",
        "the same attack finds it on less than 95 % of the samples (significantly: failure), or random points find it "
        "half as often (warning: too easy a test)",
        "The attack is too weak for this defence: adapt it before quoting its figure.",
        "Zimmermann et al. 2022, arXiv 2206.13991",
    ),
)
_MODELS = (
    Check(
        "MD01",
        "eval-mode",
        "Is the model in evaluation mode, and are its answers?",
        "dropout or batch normalisation still acts as in training; a warning where model.eval() would end it",
        "Call model.eval(), and use no functional dropout without training=self.training.",
        "the doctor",
    ),
    Check(
        "MD02",
        "input-range",
        "Does the model take pixels of [0, 1]?",
        "clean accuracy is significantly higher with pixels scaled otherwise: 0 to 255, -1 to 1, or normalised",
        "Put the scaling inside the model: declare it with --mean and --std.",
        "the doctor",
    ),
    Check(
        "MD03",
        "clean-accuracy",
        "Is clean accuracy what it should be?",
        "the interval of the measured accuracy is below what the user expects (above it: a warning), or not above "
        "guessing, or another order of the classes would be right significantly more often",
        "Check weights, order of classes, normalisation and image size.",
        "the doctor",
    ),
    Check(
        "MD04",
        "classes",
        "Does the model have as many classes as the data?",
        "another number of logits than classes, or one logit for two classes",
        "Wrap one logit z as [0, z]; take a head with as many classes as the data set.",
        "the doctor",
    ),
    Check(
        "MD05",
        "batch-invariance",
        "Is an image answered alike alone and among others?",
        "logits of an image depend on what else is in the batch",
        "Batch statistics at test time (batch norm in training mode) leak between samples: call model.eval().",
        "the doctor",
    ),
    Check(
        "MD06",
        "finite",
        "Are logits and gradients finite numbers?",
        "NaN or infinity in logits or gradients",
        "Look for divisions, logarithms and half precision.",
        "the doctor",
    ),
    Check(
        "MD07",
        "normalisation",
        "Is the normalisation declared and inside the model?",
        "a usual mean and standard deviation would raise clean accuracy significantly, or it is applied twice",
        "Declare it once: --mean R,G,B --std R,G,B; eps is then in pixels before it.",
        "the doctor",
    ),
    Check(
        "MD08",
        "rounding",
        "Does the model react to small changes of a pixel?",
        "changes far below a grey level leave every logit as it was; a warning where gradients are passed around the "
        "rounding",
        "Rounded inputs have no gradient: attack by BPDA, and say that the model rounds.",
        "the doctor",
    ),
)

CHECKS: Mapping[str, Check] = {
    check.code: check
    for check in (*_EVALUATION, *_MASKING, *_RANDOMNESS, *_ATTACKS, *_DETECTORS, *_CLAIMS, *_MODELS)
}
"""All checks by code."""


def find_check(name: str) -> Check:
    """Return the check with this code or name, whatever its case. Raises UsageError with the nearest one."""
    by_name = {check.code.lower(): check for check in CHECKS.values()}
    by_name |= {check.name: check for check in CHECKS.values()}
    if name.lower() not in by_name:
        raise unknown_name("check", name, by_name)
    return by_name[name.lower()]
