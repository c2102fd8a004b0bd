"""Configurations: an official checkpoint's, and the embedded sibling's, of the same class.

Numbers of the official ones are those of the published configurations; parameter counts are tested.
"""

# DiffAE, ffhq256_autoenc (Preechakul et al. 2022): 168,492,291 parameters, 54,109,696 in the latent
# network.
DAE_FFHQ256 = {
    "size": 256,
    "base": 128,
    "mult": (1, 1, 2, 2, 4, 4),
    "blocks": 2,
    "attention": (16,),
    "embed": 512,
    "cond": 512,
    "encoder": {"base": 128, "mult": (1, 1, 2, 2, 4, 4, 4), "blocks": 2, "attention": (16,)},
}
LATENT_FFHQ256 = {"width": 512, "hidden": 2048, "layers": 10, "time": 64}
DAE_VEHICLES32 = {
    "size": 32,
    "base": 32,
    "mult": (1, 2, 2),
    "blocks": 2,
    "attention": (8,),
    "cond": 64,
    "groups": 16,
    "head_width": 32,
    "encoder": {"base": 32, "mult": (1, 2, 2, 2), "blocks": 1, "attention": (8,)},
}
LATENT_VEHICLES32 = {"width": 64, "hidden": 192, "layers": 5, "time": 64}

# Latent diffusion, FFHQ, VQ-f4 (Rombach et al. 2022): 274,056,163 and 55,322,782 parameters.
LDM_FFHQ256 = {
    "size": 64,
    "base": 224,
    "mult": (1, 2, 3, 4),
    "blocks": 2,
    "attention": (32, 16, 8),
    "head_width": 32,
    "film": False,
    "resample_in_block": False,
}
VQ_F4 = {"size": 256, "channels": (128, 256, 512), "layers": 2, "latent": 3, "codes": 8192}
LDM_VEHICLES32 = {
    "size": 16,
    "base": 40,
    "mult": (1, 2),
    "blocks": 2,
    "attention": (8,),
    "head_width": 20,
    "film": False,
    "resample_in_block": False,
    "groups": 20,
}
VQ_VEHICLES32 = {
    "size": 32,
    "channels": (32, 64),
    "layers": 1,
    "latent": 3,
    "codes": 1024,
    "groups": 16,
}

# D2C, FFHQ-256 (Sinha et al. 2021): autoencoder 24,767,596, prior 45,665,544 parameters.
NVAE_FFHQ256 = {
    "base": 24,
    "latent": 8,
    "towers": (16, 16, 16),
    "decoder": (14, 16, 16),
    "expand": (6, 3),
}
D2C_FFHQ256 = {
    "size": 32,
    "image_channels": 8,
    "channels": (128, 256, 256, 256, 256),
    "layers": 2,
    "attention": (1,),
    "groups": 32,
    "head_dim": None,
    "eps": 1e-6,
    "asymmetric": True,
}
NVAE_VEHICLES32 = {
    "base": 16,
    "latent": 8,
    "towers": (2, 2),
    "decoder": (2, 2),
    "expand": (3, 3),
}
D2C_VEHICLES32 = {
    "size": 8,
    "image_channels": 8,
    "channels": (48, 64),
    "layers": 1,
    "attention": (0,),
    "groups": 16,
    "head_dim": None,
    "eps": 1e-6,
    "asymmetric": True,
}

# The OpenAI dialect: ADM-light on FFHQ (93.56 M) and improved-diffusion's unconditional models.
FFHQ_10M = {
    "size": 256,
    "base": 128,
    "mult": (1, 1, 2, 2, 4, 4),
    "blocks": 1,
    "attention": (16,),
    "head_width": 64,
    "out_channels": 6,
}
IDDPM_CIFAR10 = {
    "size": 32,
    "base": 128,
    "mult": (1, 2, 2, 2),
    "blocks": 3,
    "attention": (16, 8),
    "heads": 4,
    "out_channels": 6,
    "resample_in_block": False,
}
IDDPM_IMAGENET64 = IDDPM_CIFAR10 | {"size": 64, "mult": (1, 2, 3, 4)}
IDDPM_BEDROOM256 = IDDPM_CIFAR10 | {
    "size": 256,
    "mult": (1, 1, 2, 2, 4, 4),
    "blocks": 2,
    "attention": (16,),
    "heads": 1,
    "film": False,
}
ADM_IMAGENET256 = {
    "size": 256,
    "base": 256,
    "mult": (1, 1, 2, 2, 4, 4),
    "blocks": 2,
    "attention": (32, 16, 8),
    "head_width": 64,
    "out_channels": 6,
}

# A second architecture for the embedded world: the OpenAI dialect, v-prediction, cosine schedule.
V_VEHICLES32 = {
    "size": 32,
    "base": 24,
    "mult": (1, 2, 2),
    "blocks": 2,
    "attention": (8,),
    "head_width": 24,
    "groups": 12,
}

def widths(size: int, base: int = 32768, most: int = 512) -> tuple[int, ...]:
    """Channels at 4, 8, …, size: min(base / resolution, most), as the official networks count."""
    return tuple(min(base // 2**i, most) for i in range(2, size.bit_length()))


# StyleGAN2 on FFHQ: config-f at 1024 px, 30,370,060 parameters, its half (SPHInX) at 256 px, and
# paper256, 24,767,458. What a file says of clamps is read there, see `pickles.configuration`.
STYLEGAN2_FFHQ1024 = {"channels": widths(1024)}
STYLEGAN2_CONFIG_F256 = {"channels": widths(256)}
STYLEGAN2_FFHQ256 = {"channels": widths(256, 16384)}

# BigGAN on ImageNet (Brock et al. 2019): 70,433,988 parameters; BigGAN-deep 50,388,609, 55,880,833
# and 56,163,905.
BIGGAN_IMAGENET128 = {"channels": (1536, 1536, 768, 384, 192, 96), "attention": 64}
BIGGAN_DEEP = {
    128: {"channels": (2048, 2048, 1024, 512, 256, 128), "attention": 64},
    256: {"channels": (2048, 2048, 1024, 1024, 512, 256, 128), "attention": 64},
    512: {"channels": (2048, 2048, 1024, 1024, 512, 256, 128, 128), "attention": 64},
}

# The GANs of the embedded world, a generator of about a million parameters each.
STYLEGAN2_VEHICLES32 = {"channels": (160, 160, 96, 48), "z": 64, "w": 128, "layers": 4}
STYLEGAN2_CRITIC = {"channels": (160, 160, 96, 48), "head": "sum"}
STYLEGANXL_VEHICLES32 = STYLEGAN2_VEHICLES32 | {"layers": 2, "classes": 4}
BIGGAN_VEHICLES32 = {"channels": (192, 128, 96, 32), "z": 64, "shared": 32, "classes": 4}
BIGGAN_CRITIC = {"channels": (192, 96, 48), "classes": 4}
