# Carries the two programs and the configuration in, and lets the provisioner do the rest: nothing is decided here.
build {
  sources = ["source.qemu.debian"]

  provisioner "shell" {
    inline = [
      "set -eu",
      "mkdir -p ${local.staging} /run/provision",
      # `provision image sysprep` empties a host only where this says that it is being baked.
      "touch /run/provision/bake",
    ]
  }

  provisioner "file" {
    source      = var.holdfast_binary
    destination = "${local.staging}/holdfast"
  }

  provisioner "file" {
    source      = var.provision_binary
    destination = "${local.staging}/provision"
  }

  provisioner "file" {
    source      = var.provision_file
    destination = "${local.staging}/provision.toml"
  }

  provisioner "shell" {
    inline = [
      "set -eu",
      "install -m 0755 ${local.staging}/holdfast ${local.staging}/provision /usr/bin/",
      "install -D -m 0640 ${local.staging}/provision.toml /etc/holdfast/provision.toml",
      "provision apply --root /",
      "provision image sysprep",
    ]
  }

  post-processors {
    post-processor "checksum" {
      checksum_types = ["sha256"]
      output         = "${var.output_dir}/${var.image_name}.{{.ChecksumType}}"
    }
    post-processor "manifest" {
      output     = "${var.output_dir}/packer-manifest.json"
      strip_path = true
    }
  }
}
