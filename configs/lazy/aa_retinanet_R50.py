"""``configs/aa_retinanet_R50.yaml`` as a LazyConfig: ``augment`` around detectron2's own ResNet.

For detectron2's ``tools/lazyconfig_train_net.py`` or, with weights of a plain network,
``examples/lazyconfig/lazyconfig_train_net.py``.
"""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L

from aa_detection import AttentionSpec, augment

model = model_zoo.get_config("common/models/retinanet.py").model
model.backbone.bottom_up.freeze_at = 2
model.backbone.bottom_up = L(augment)(
    resnet=model.backbone.bottom_up,
    spec=L(AttentionSpec)(conv="aa", merge="add"),
)

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.mapper.use_instance_mask = False

optimizer = model_zoo.get_config("common/optim.py").SGD
optimizer.lr = 0.01
lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_1x

train = model_zoo.get_config("common/train.py").train
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.output_dir = "output/lazy_aa_retinanet_R50"
