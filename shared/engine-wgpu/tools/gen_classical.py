"""Writes small models of scikit-learn, LightGBM and XGBoost, and single operators of ai.onnx.ml, with the answers of ONNX Runtime.

The cases lie in tests/cases/classical and are part of the repository, because the trainers are large. Run again after a change here:
    pip install onnx==1.23.2 onnxruntime==1.32.0 skl2onnx==1.20.0 scikit-learn onnxmltools lightgbm xgboost
    python tools/gen_classical.py
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from case_file import write_case

OUT = Path(__file__).parent.parent / "tests/cases/classical"
ML = 3
rng = np.random.default_rng(11)


def answers(model: onnx.ModelProto, feeds: dict):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(zip([output.name for output in session.get_outputs()], session.run(None, feeds)))


def add(name: str, model: onnx.ModelProto, feeds: dict, tolerance=1e-5):
    del model.metadata_props[:]
    outputs = answers(model, feeds)
    write_case(OUT / name, model, list(feeds.items()), outputs, "close", tolerance, tolerance)


def node(name: str, op: str, feeds: dict, outputs: list, version=ML, tolerance=1e-5, **attributes):
    """One operator with these attributes."""
    made = helper.make_node(op, list(feeds), [n for n, _ in outputs], domain="ai.onnx.ml", **attributes)
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), [None] * a.ndim) for n, a in feeds.items()]
    infos = [helper.make_tensor_value_info(n, kind, None) for n, kind in outputs]
    graph = helper.make_graph([made], name, inputs, infos)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", version)])
    model.ir_version = 9
    add(name, model, feeds, tolerance)


F, I = TensorProto.FLOAT, TensorProto.INT64


def operators():
    x = rng.normal(size=(5, 4)).astype(np.float32)
    x[1] = 0
    x[2] = -np.abs(x[2])
    for norm in ("MAX", "L1", "L2"):
        node(f"normalizer_{norm.lower()}", "Normalizer", {"x": x}, [("y", F)], 1, norm=norm)
    node("scaler_each", "Scaler", {"x": x}, [("y", F)], 1, offset=[0.5, 1, -2, 0], scale=[2.0, 0.1, 3, 1])
    node("scaler_one", "Scaler", {"x": (x * 10).astype(np.int64)}, [("y", F)], 1, offset=[0.5], scale=[2.0])
    node("binarizer", "Binarizer", {"x": x}, [("y", F)], 1, threshold=0.3)
    holes = x.copy()
    holes[0, 1] = holes[3, 3] = np.nan
    node("imputer_nan", "Imputer", {"x": holes}, [("y", F)], 1, imputed_value_floats=[1.0, 2, 3, 4], replaced_value_float=float("nan"))
    whole = np.array([[1, 0, 3], [0, 5, 0]], np.int64)
    node("imputer_int", "Imputer", {"x": whole}, [("y", I)], 1, imputed_value_int64s=[7], replaced_value_int64=0)
    node("feature_vectorizer", "FeatureVectorizer", {"a": x, "b": x[:, :2].copy(), "c": x[:, 1:].copy()}, [("y", F)], 1, inputdimensions=[4, 2, 3])
    node("feature_extractor", "ArrayFeatureExtractor", {"x": x, "i": np.array([2, 0], np.int64)}, [("y", F)], 1)
    node("feature_extractor_row", "ArrayFeatureExtractor", {"x": np.arange(6, dtype=np.int64), "i": np.array([[4, 0, 1]], np.int64)}, [("y", I)], 1)
    codes = np.array([[3, 1, 9], [2, 3, -4]], np.int64)
    node("label_int_int", "LabelEncoder", {"x": codes}, [("y", I)], 2, keys_int64s=[3, 1, -4, 3], values_int64s=[30, 10, 40, 31], default_int64=-7)
    node("label_int_float", "LabelEncoder", {"x": codes}, [("y", F)], 2, keys_int64s=[3, 1], values_floats=[0.5, 1.5], default_float=9.0)
    values = np.array([1.5, np.nan, -0.0, 0.0, 3.25, 8], np.float32)
    node("label_float_int", "LabelEncoder", {"x": values}, [("y", I)], 2, keys_floats=[3.25, float("nan"), 0.0, 1.5], values_int64s=[1, 2, 3, 4], default_int64=5)
    node("label_nan", "LabelEncoder", {"x": values}, [("y", F)], 4, keys_floats=[3.25, float("nan"), 0.0], values_floats=[1, 2, 3.0], default_float=5.0)
    keys, to = np.array([1, 2, 3], np.int64), np.array([1.0, 4, 9], np.float32)
    node("label_tensors", "LabelEncoder", {"x": codes}, [("y", F)], 4, keys_tensor=numpy_helper.from_array(keys), values_tensor=numpy_helper.from_array(to), default_tensor=numpy_helper.from_array(np.array([-1.0], np.float32)))
    node("one_hot", "OneHotEncoder", {"x": codes}, [("y", F)], 1, cats_int64s=[1, 2, 3], zeros=1)
    for transform in ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"):
        coefficients = rng.normal(size=12).astype(np.float32) * (0.05 if transform == "PROBIT" else 1)
        offsets = [0.5, 0.4, 0.3] if transform == "PROBIT" else [0.1, -0.2, 0.3]
        node(f"linear_classes_{transform.lower()}", "LinearClassifier", {"x": x}, [("label", I), ("scores", F)], 1, coefficients=coefficients.tolist(),
             intercepts=offsets, classlabels_ints=[4, 5, 9], post_transform=transform, multi_class=0)
        node(f"linear_targets_{transform.lower()}", "LinearRegressor", {"x": x}, [("y", F)], 1, coefficients=coefficients.tolist(),
             intercepts=offsets, targets=3, post_transform=transform)
        if transform != "PROBIT":
            node(f"linear_pair_{transform.lower()}", "LinearClassifier", {"x": x}, [("label", I), ("scores", F)], 1, coefficients=[0.5, -1, 2, 0.1],
                 intercepts=[0.2], classlabels_ints=[3, 8], post_transform=transform)
            node(f"linear_one_{transform.lower()}", "LinearRegressor", {"x": x}, [("y", F)], 1, coefficients=[0.5, -1, 2, 0.1], intercepts=[0.2], post_transform=transform)
    for kernel in ("LINEAR", "POLY", "RBF", "SIGMOID"):
        node(f"svm_{kernel.lower()}", "SVMRegressor", {"x": x}, [("y", F)], 1, coefficients=[0.5, -1, 2.0], support_vectors=rng.normal(size=12).tolist(),
             rho=[0.3], n_supports=3, kernel_type=kernel, kernel_params=[0.4, 0.7, 3.0])
    node("svm_dot", "SVMRegressor", {"x": x}, [("y", F)], 1, coefficients=[0.5, -1, 2.0, 1], rho=[0.3], n_supports=0, kernel_type="LINEAR", kernel_params=[0.0, 0.0, 0.0])
    machines(x)
    trees()


def machines(x):
    """SVMClassifier: pairs of classes, with and without probabilities, and without support vectors."""
    both = [("label", I), ("scores", F)]
    for count in (2, 3, 5):
        labels, sizes = [7, 3, 9, 1, 4][:count], [3, 2, 4, 1, 2][:count]
        total, pairs = sum(sizes), count * (count - 1) // 2
        common = dict(classlabels_ints=labels, vectors_per_class=sizes, support_vectors=rng.normal(size=total * 4).tolist(),
                      coefficients=rng.normal(size=(count - 1) * total).tolist(), rho=(rng.normal(size=pairs) * 0.3).tolist())
        proba = dict(prob_a=(-np.abs(rng.normal(size=pairs))).tolist(), prob_b=(rng.normal(size=pairs) * 0.2).tolist())
        for kernel in ("LINEAR", "POLY", "RBF", "SIGMOID"):
            node(f"svc_{count}_{kernel.lower()}", "SVMClassifier", {"x": x}, both, 1, 1e-4, kernel_type=kernel, kernel_params=[0.4, 0.7, 3.0], **common)
        for transform in ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"):
            node(f"svc_{count}_{transform.lower()}", "SVMClassifier", {"x": x}, both, 1, 1e-4, kernel_type="RBF", kernel_params=[0.4, 0.0, 0.0], post_transform=transform, **common)
            node(f"svc_{count}_probable_{transform.lower()}", "SVMClassifier", {"x": x}, both, 1, 1e-4, kernel_type="RBF", kernel_params=[0.4, 0.0, 0.0], post_transform=transform, **common, **proba)
            node(f"svc_{count}_flat_{transform.lower()}", "SVMClassifier", {"x": x}, both, 1, 1e-4, kernel_type="LINEAR", kernel_params=[0.0, 0.0, 0.0], post_transform=transform,
                 classlabels_ints=labels, coefficients=rng.normal(size=count * 4).tolist(), rho=[0.3])
    node("svc_2_flat_positive", "SVMClassifier", {"x": np.abs(x) * 0.4}, both, 1, 1e-4, kernel_type="LINEAR", kernel_params=[0.0, 0.0, 0.0], classlabels_ints=[4, 6], coefficients=rng.random(8).tolist(), rho=[0.1])
    node("svc_integers", "SVMClassifier", {"x": (x * 3).astype(np.int64)}, both, 1, 1e-4, kernel_type="RBF", kernel_params=[0.1, 0.0, 0.0], classlabels_ints=[0, 1], vectors_per_class=[1, 1],
         support_vectors=[1.0, 2, 0, -1, 0, 0, 1, 3], coefficients=[1.0, -1.0], rho=[0.1])


MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]


def grow(kind: str, ids: list, positive: bool, modes=MODES, every=True, trees=11):
    """Random trees over four features, as the lists of TreeEnsemble*."""
    lists = {name: [] for name in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids", "missing_value_tracks_true")}
    leaf = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}

    def make(tree, depth):
        place = len([t for t in lists["treeids"] if t == tree])
        for name, value in dict(treeids=tree, nodeids=place, featureids=int(rng.integers(4)), modes="LEAF", values=float(np.float32(np.round(rng.normal(), 1))),
                                truenodeids=0, falsenodeids=0, missing_value_tracks_true=int(rng.integers(2))).items():
            lists[name].append(value)
        at = len(lists["modes"]) - 1
        if depth == 0 or rng.random() < 0.1:
            for number in ids if every else [ids[int(rng.integers(len(ids)))]]:
                weight = float(np.float32(rng.random() / 11 if positive else rng.normal()))
                for name, value in dict(treeids=tree, nodeids=place, ids=number, weights=weight).items():
                    leaf[name].append(value)
            return place
        lists["modes"][at] = modes[int(rng.integers(len(modes)))]
        lists["truenodeids"][at] = make(tree, depth - 1)
        lists["falsenodeids"][at] = make(tree, depth - 1)
        return place

    for tree in range(trees):
        make(tree, 4)
    return {f"nodes_{name}": value for name, value in lists.items()} | {f"{kind}_{name}": value for name, value in leaf.items()}


def trees():
    x = np.round(rng.normal(size=(17, 4)), 1).astype(np.float32)
    x[3, 1] = x[5, 0] = np.nan
    plain = x[:3]
    for aggregate in ("SUM", "AVERAGE", "MIN", "MAX"):
        for targets, base in ((1, []), (1, [0.7]), (3, [0.1, 0.2, 0.3])):
            extra = {"base_values": base} if base else {}
            node(f"trees_{aggregate.lower()}_{targets}_{len(base)}", "TreeEnsembleRegressor", {"x": x}, [("y", F)], n_targets=targets, aggregate_function=aggregate,
                 post_transform="NONE", **grow("target", list(range(targets)), False), **extra)
    for transform in ("LOGISTIC", "SOFTMAX"):
        for targets in (1, 2):
            node(f"trees_{transform.lower()}_{targets}", "TreeEnsembleRegressor", {"x": x}, [("y", F)], n_targets=targets, post_transform=transform,
                 **grow("target", list(range(targets)), False, every=False))
    node("trees_double", "TreeEnsembleRegressor", {"x": x.astype(np.float64)}, [("y", F)], n_targets=1, **grow("target", [0], False))
    node("trees_row", "TreeEnsembleRegressor", {"x": plain}, [("y", F)], n_targets=1, **grow("target", [0], False, trees=200))
    both = [("label", I), ("scores", F)]
    for transform in ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"):
        for label, labels, ids, base in (("three", [5, 2, 9], [0, 1, 2], []), ("three_base", [5, 2, 9], [0, 1, 2], [0.1, -0.3, 0.2]), ("two", [4, 7], [0, 1], []),
                                         ("two_base", [4, 7], [0, 1], [0.3, -0.2]), ("first", [4, 7], [0], []), ("first_base", [4, 7], [0], [0.25]),
                                         ("second", [4, 7], [1], []), ("sparse", [5, 2, 9], [0, 2], [])):
            for positive in (False, True):
                extra = {"base_values": base} if base else {}
                name = f"classes_{label}_{transform.lower()}_{'positive' if positive else 'mixed'}"
                node(name, "TreeEnsembleClassifier", {"x": x}, both, classlabels_int64s=labels, post_transform=transform,
                     **grow("class", ids, positive, every=label != "sparse"), **extra)
    # TreeEnsemble of operator set 5, with a set.
    y = np.array([[1.2, 3.4], [-0.12, 1.66], [4.14, 1.77], [9.0, 3.0]], np.float32)
    attributes = dict(n_targets=2, tree_roots=[0], aggregate_function=1, nodes_modes=numpy_helper.from_array(np.array([0, 6, 0], np.uint8), "m"),
                      nodes_featureids=[0, 1, 0], nodes_splits=numpy_helper.from_array(np.array([3.14, 1.2, 4.2], np.float32), "s"), nodes_truenodeids=[1, 0, 1],
                      nodes_trueleafs=[0, 1, 1], nodes_falsenodeids=[2, 2, 3], nodes_falseleafs=[0, 1, 1], leaf_targetids=[0, 1, 0, 1],
                      leaf_weights=numpy_helper.from_array(np.array([5.23, 12.12, -12.23, 7.21], np.float32), "w"),
                      membership_values=numpy_helper.from_array(np.array([1.66, 3.4, float("nan")], np.float32), "v"))
    node("ensemble_set", "TreeEnsemble", {"x": y}, [("y", F)], 5, **attributes)


def trained():
    from lightgbm import LGBMClassifier, LGBMRegressor
    from onnxmltools import convert_lightgbm, convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType as Floats
    from skl2onnx import to_onnx
    from sklearn.ensemble import (AdaBoostClassifier, ExtraTreesClassifier, GradientBoostingClassifier, GradientBoostingRegressor,
                                  IsolationForest, RandomForestClassifier, RandomForestRegressor)
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, Normalizer, StandardScaler
    from sklearn.svm import SVC, SVR, LinearSVC, NuSVC
    from sklearn.tree import DecisionTreeClassifier
    from xgboost import XGBClassifier, XGBRegressor

    x = rng.normal(size=(300, 5)).astype(np.float32)
    three = (x[:, 0] + x[:, 1] ** 2 > 1).astype(int) + (x[:, 2] > 0.4)
    two = (x[:, 0] * x[:, 1] + 0.3 * x[:, 2] > 0).astype(int)
    real = x[:, 0] * 2 + np.sin(x[:, 1])
    asked = rng.normal(size=(9, 5)).astype(np.float32)
    small = dict(n_estimators=6, max_depth=3, random_state=0)
    models = {
        "logistic_two": (LogisticRegression(), two), "logistic_three": (LogisticRegression(), three), "sgd": (SGDClassifier(loss="log_loss", random_state=0), two),
        "linear": (LinearRegression(), real), "ridge": (make_pipeline(StandardScaler(), Ridge()), real), "tree": (DecisionTreeClassifier(max_depth=4), three),
        "forest_two": (RandomForestClassifier(**small), two), "forest_three": (RandomForestClassifier(**small), three), "forest_real": (RandomForestRegressor(**small), real),
        "extra_trees": (ExtraTreesClassifier(**small), three), "boosting_two": (GradientBoostingClassifier(**small), two),
        "boosting_three": (GradientBoostingClassifier(**small), three), "boosting_real": (GradientBoostingRegressor(**small), real),
        "ada_boost": (AdaBoostClassifier(n_estimators=4, random_state=0), two),
        "isolation_forest": (IsolationForest(n_estimators=4, max_samples=16, random_state=0), None), "svr": (SVR(), real), "svc_two": (SVC(), two),
        "svc_three": (SVC(), three), "svc_probable": (SVC(probability=True, random_state=0), three), "linear_svc": (LinearSVC(), three), "nu_svc": (NuSVC(nu=0.2), two),
        "naive_bayes": (GaussianNB(), three),
        "neighbours": (KNeighborsClassifier(3), two), "k_means": (KMeans(3, n_init=2, random_state=0), None), "pca": (PCA(2), None),
        "mlp": (MLPClassifier((8,), max_iter=50, random_state=0), three),
        "pipeline": (make_pipeline(SimpleImputer(), MinMaxScaler(), Normalizer(), LogisticRegression()), three),
    }
    for name, (model, target) in models.items():
        data = x[:60] if name in ("svr", "neighbours") or "svc" in name else x
        target = None if target is None else target[: len(data)]
        model.fit(data, target)
        zipmap = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") or name in ("svc_two", "svc_three", "nu_svc") else None
        opsets = {"": 17, "ai.onnx.ml": 3}
        try:
            add(f"sklearn_{name}", to_onnx(model, x[:1], options=zipmap, target_opset=opsets), {"X": asked}, 1e-4)
        except Exception as error:
            print("not made:", name, str(error)[:200], file=sys.stderr)
    floats = [("X", Floats([None, 5]))]
    for name, model, target in (("two", LGBMClassifier(n_estimators=5, max_depth=3, verbose=-1), two), ("three", LGBMClassifier(n_estimators=5, max_depth=3, verbose=-1), three),
                                ("real", LGBMRegressor(n_estimators=5, max_depth=3, verbose=-1), real)):
        model.fit(x, target)
        extra = {} if name == "real" else {"zipmap": False}
        add(f"lightgbm_{name}", convert_lightgbm(model, initial_types=floats, target_opset=15, **extra), {"X": asked}, 1e-4)
    for name, model, target in (("two", XGBClassifier(n_estimators=5, max_depth=3), two), ("three", XGBClassifier(n_estimators=5, max_depth=3), three),
                                ("real", XGBRegressor(n_estimators=5, max_depth=3), real)):
        model.fit(x, target)
        try:
            add(f"xgboost_{name}", convert_xgboost(model, initial_types=floats, target_opset=15), {"X": asked}, 1e-4)
        except Exception as error:
            print("not made: xgboost", name, str(error)[:200], file=sys.stderr)


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    operators()
    trained()
    print(len(list(OUT.iterdir())), "cases")
