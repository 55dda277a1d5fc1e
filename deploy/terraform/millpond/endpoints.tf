# A pull from ECR and a push to it stay inside the VPC: the API and the registry by interfaces, layers by S3's gateway,
# credentials by STS.

locals {
  interfaces = toset(var.vpc_endpoints == null ? [] : ["ecr.api", "ecr.dkr", "sts"])
}

data "aws_vpc_endpoint_service" "interface" {
  for_each = local.interfaces

  service      = each.value
  service_type = "Interface"
}

data "aws_vpc_endpoint_service" "s3" {
  count = var.vpc_endpoints == null ? 0 : 1

  service      = "s3"
  service_type = "Gateway"
}

resource "aws_vpc_endpoint" "interface" {
  for_each = local.interfaces

  vpc_id              = var.vpc_endpoints.vpc_id
  service_name        = data.aws_vpc_endpoint_service.interface[each.value].service_name
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = var.vpc_endpoints.subnet_ids
  security_group_ids  = var.vpc_endpoints.security_group_ids
  tags                = merge(var.tags, { Name = "${var.name}-${each.value}" })
}

resource "aws_vpc_endpoint" "s3" {
  count = var.vpc_endpoints == null ? 0 : 1

  vpc_id            = var.vpc_endpoints.vpc_id
  service_name      = data.aws_vpc_endpoint_service.s3[count.index].service_name
  vpc_endpoint_type = "Gateway"
  route_table_ids   = var.vpc_endpoints.route_table_ids
  tags              = merge(var.tags, { Name = "${var.name}-s3" })
}
