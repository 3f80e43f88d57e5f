# Puts larder into an image. Copy the variables and the `build` block's provisioners into your own template (the source here
# reaches no machine), and build it with
#   -var release=larder-0.1.0-linux-x64.tar.gz -var sha256=<its sum in SHA256SUMS>
variable "release" {
  type        = string
  description = "The release's tarball."
}

variable "sha256" {
  type        = string
  description = "Its sum in SHA256SUMS."
}

source "null" "example" {
  communicator = "none"
}

build {
  sources = ["source.null.example"]

  provisioner "file" {
    source      = var.release
    destination = "/tmp/larder.tar.gz"
  }

  provisioner "shell" {
    inline_shebang = "/bin/sh -eux"
    inline = [
      "echo '${var.sha256}  /tmp/larder.tar.gz' | sha256sum --check",
      "mkdir /tmp/larder && tar -xzf /tmp/larder.tar.gz -C /tmp/larder --strip-components=1",
      "sudo install -m 0755 /tmp/larder/larder /usr/local/bin/larder",
      "sudo install -D -m 0644 /tmp/larder/man/man1/larder.1 /usr/local/share/man/man1/larder.1",
      "sudo install -D -m 0644 /tmp/larder/completions/larder.bash /usr/share/bash-completion/completions/larder",
      "sudo install -m 0644 /tmp/larder/host/systemd/larder-prune.service /tmp/larder/host/systemd/larder-prune.timer /etc/systemd/system/",
      "getent passwd microsandbox || sudo useradd --system --home-dir /var/lib/microsandbox --create-home microsandbox",
      "sudo systemctl enable larder-prune.timer",
      "larder --version --format json",
      "rm -r /tmp/larder /tmp/larder.tar.gz",
    ]
  }
}
